"""``apply`` on a host without Kubernetes: create, update, what serves meanwhile, what stays when it fails."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from imagecache.agent.direct_layers import DirectLayers
from imagecache.api.ids import derived_cache_id
from imagecache.api.nodes import HOST, REFRESH
from imagecache.api.types import NodeCounts, Phase
from imagecache.errors import ImageNotFound, NoSpace, NotFound
from imagecache.kube.object_files import ObjectFiles
from imagecache.plain_host.verbs import Accepted, ShownEvent
from imagecache.store.paths import StorePaths
from tests.unit.plain_host.bench import Bench, eventually, manifest, status_of


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_apply_creates_and_says_what_it_did(bench: Bench) -> None:
    seen: list[str] = []

    def show(event: ShownEvent) -> None:
        if isinstance(event, Accepted):
            seen.append(event.how)

    for images in (("nginx:1.25",), ("nginx:1.25",), ("redis:7",)):
        await bench.host.apply(manifest("a", *images), show=show)

    assert seen == ["created", "unchanged", "configured"]
    assert len(bench.builder.requests) == 2


async def test_an_update_serves_the_old_content_until_the_new_is_attached(bench: Bench) -> None:
    before = await bench.host.create(manifest("a"))
    bench.builder.pause = asyncio.Event()
    task = asyncio.create_task(bench.host.apply(manifest("a", "redis:7")))
    await eventually(lambda: bench.status().progress == "25%")

    assert bench.status().phase is Phase.UPDATING
    assert set(bench.attacher.attached) == {"docker.io/library/nginx:1.25"}
    assert status_of(before).image_cache_id in bench.store.documents
    bench.builder.pause.set()
    after = await task
    assert (status_of(after).phase, after.metadata.generation) == (Phase.READY, 2)
    assert status_of(after).image_cache_id != status_of(before).image_cache_id
    assert list(bench.store.documents) == [status_of(after).image_cache_id]
    assert set(bench.attacher.attached) == {"docker.io/library/redis:7"}
    assert status_of(after).nodes == NodeCounts(desired=1, ready=1)
    assert (await bench.host.delete("a")).detached == ("docker.io/library/redis:7",)


async def test_a_failed_update_keeps_the_old_content(bench: Bench) -> None:
    before = await bench.host.create(manifest("a"))
    with pytest.raises(ImageNotFound):
        await bench.host.apply(manifest("a", "nginx:9"))

    assert bench.status().phase is Phase.UPDATE_FAILED
    assert bench.status().image_cache_id == status_of(before).image_cache_id
    assert bench.status().nodes == NodeCounts(desired=1, ready=1)
    assert set(bench.attacher.attached) == {"docker.io/library/nginx:1.25"}
    assert list((await bench.host.attach("a")).images) == ["docker.io/library/nginx:1.25"]
    with pytest.raises(ImageNotFound):  # the same again is tried again
        await bench.host.apply(manifest("a", "nginx:9"))
    after = await bench.host.apply(manifest("a"))
    assert (status_of(after).phase, status_of(after).image_cache_id) == (Phase.READY, status_of(before).image_cache_id)


async def test_an_interrupted_update_goes_on_with_the_same_command(bench: Bench) -> None:
    before = await bench.host.create(manifest("a"))
    bench.builder.pause = asyncio.Event()
    task = asyncio.create_task(bench.host.apply(manifest("a", "redis:7")))
    await eventually(lambda: bench.status().progress == "25%")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    reasons = {condition.type: (condition.status, condition.reason) for condition in bench.status().conditions}
    assert reasons["Ready"] == ("False", "Interrupted")
    assert reasons["Serving"] == ("True", "Updating")
    assert reasons["Building"] == ("False", "Interrupted")
    assert bench.status().image_cache_id == status_of(before).image_cache_id
    bench.builder.pause.set()
    assert [image.image for image in status_of(await bench.host.apply(manifest("a", "redis:7"))).images] == ["redis:7"]


async def test_another_retention_builds_nothing(bench: Bench) -> None:
    await bench.host.create(manifest("a", retentionDays=7))
    after = await bench.host.apply(manifest("a", retentionDays=2))

    assert status_of(after).expire_date_time == "2024-05-03T12:00:00Z"
    assert status_of(await bench.host.apply(manifest("a"))).expire_date_time == ""
    assert len(bench.builder.requests) == 1


async def test_another_architecture_is_another_build(bench: Bench) -> None:
    await bench.host.create(manifest("a"))
    named = {"k8s.aliyun.com/imc-cpu-arch": "arm64"}
    await bench.host.apply(manifest("a", annotations=named))

    asked = [[str(each) for each in request.platforms] for request in bench.builder.requests]
    assert asked == [["linux/amd64"], ["linux/arm64"]]
    assert [image.platform for image in bench.status().images] == ["linux/arm64"]
    assert not bench.attacher.attached, "this host is another one"
    assert bench.status().nodes == NodeCounts()
    assert (await bench.host.attach("a")).foreign == ("nginx:1.25",)
    assert bench.host.get("a").metadata.annotations == named
    await bench.host.apply(manifest("a"))
    assert bench.host.get("a").metadata.annotations == {}
    assert set(bench.attacher.attached) == {"docker.io/library/nginx:1.25"}
    assert bench.status().nodes == NodeCounts(desired=1, ready=1)


async def test_a_host_takes_its_own_of_several_architectures(bench: Bench) -> None:
    both = {"k8s.aliyun.com/imc-cpu-arch": "amd64,arm64"}
    cache = await bench.host.create(manifest("a", "nginx:1.25", "redis:7", annotations=both))

    found = [(image.image, image.platform) for image in status_of(cache).images]
    assert found == [(image, f"linux/{each}") for image in ("nginx:1.25", "redis:7") for each in ("amd64", "arm64")]
    attached = await bench.host.attach("a")
    assert (len(attached.images), attached.foreign) == (2, ())
    await bench.host.apply(manifest("a", "nginx:1.25", "redis:7", annotations=both))
    assert len(bench.builder.requests) == 1


async def test_a_bundle_of_several_edits_ago_is_deleted(bench: Bench) -> None:
    """Its process was killed before it was put into the status, and so were those of the edits after it."""
    cache = await bench.host.create(manifest("a"), attach=False)
    [bundle] = bench.store.documents.values()
    left = derived_cache_id(cache.metadata.uid, status_of(cache).image_cache_id)
    bench.store.documents[left] = msgspec.structs.replace(bundle, id=left)
    bench.put(cache, metadata=msgspec.to_builtins(cache)["metadata"] | {"generation": 5})

    await bench.host.apply(manifest("a", "redis:7"))
    assert list(bench.store.documents) == [bench.status().image_cache_id]


async def test_an_update_without_its_secret_has_failed_until_the_secret_exists(bench: Bench) -> None:
    ready = await bench.host.create(manifest("a"))
    update = manifest("a", "redis:7", imagePullSecrets='["default:cred"]')
    with pytest.raises(NotFound, match="is not in"):
        await bench.host.apply(update)
    assert bench.status().phase is Phase.UPDATE_FAILED
    assert bench.status().image_cache_id == status_of(ready).image_cache_id

    bench.secret("good")
    assert status_of(await bench.host.apply(update)).phase is Phase.READY


async def test_a_full_disk_keeps_no_cache_without_a_bundle(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageNotFound):
        await bench.host.create(manifest("a", "nginx:9"))
    await bench.host.create(manifest("b"))
    monkeypatch.setattr(ObjectFiles, "write", Mock(side_effect=NoSpace("no space left on device")))

    await bench.host.delete("a")
    with pytest.raises(NoSpace):
        await bench.host.delete("b")
    assert [cache.name for cache in bench.host.list()] == ["b"]
    assert len(bench.store.documents) == 1


async def test_a_look_of_another_process_does_not_refuse_a_command(bench: Bench) -> None:
    await bench.host.create(manifest("a"))
    looking = bench.files.claimed("a")
    looking.__enter__()
    ending = threading.Timer(0.05, looking.__exit__, (None, None, None))
    ending.start()

    await bench.host.delete("a")
    assert bench.host.list() == []


async def test_a_cache_may_ask_for_direct_io(bench: Bench) -> None:
    directory = StorePaths(bench.settings.store).nodes / HOST
    asked = DirectLayers(directory, lambda name: Path(name.path))
    cache = await bench.host.create(manifest("a", annotations={"imagecache.dev/direct-io": "true"}))
    [bundle] = bench.store.documents.values()
    layers = [Path(name.path) for name in bundle.layer_names()]
    assert status_of(cache).image_cache_id == bundle.id
    assert layers
    assert all(map(asked, layers))
    await bench.host.apply(manifest("a"))
    assert not any(map(asked, layers))
    assert len(bench.builder.requests) == 1, "it is no other bundle"


async def test_a_cache_may_ask_for_other_snapshotters(bench: Bench) -> None:
    await bench.host.create(manifest("a", annotations={"imagecache.dev/also-unpack": "overlayfs"}), attach=False)
    assert (await bench.host.attach("a")).unpacked == {"overlayfs"}


async def test_a_new_value_of_refresh_builds_the_same_images_anew(bench: Bench) -> None:
    before = await bench.host.create(manifest("a"))
    after = await bench.host.apply(manifest("a", annotations={REFRESH: "2024-05-01"}))

    assert status_of(after).phase is Phase.READY
    assert status_of(after).image_cache_id != status_of(before).image_cache_id
    assert bench.attacher.attached == {"docker.io/library/nginx:1.25": status_of(after).image_cache_id}
    again = await bench.host.apply(manifest("a", annotations={REFRESH: "2024-05-01"}))
    taken_back = await bench.host.apply(manifest("a"))
    assert {status_of(each).image_cache_id for each in (after, again, taken_back)} == {status_of(after).image_cache_id}
    assert len(bench.builder.requests) == 2
