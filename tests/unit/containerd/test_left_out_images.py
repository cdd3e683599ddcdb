"""Images that CRI has left out when containerd started come back, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imagecache.containerd.attach import NodeAttacher
from imagecache.containerd.image_records import CRI_NAMESPACE
from imagecache.containerd.left_out_images import restore
from imagecache.errors import ContainerdUnavailable
from testkit.attachable import MemoryDocuments, bundle
from testkit.clock import FakeClock
from testkit.containerd import FakeSnapshotter, MemoryContainerd

DOCUMENTS = MemoryDocuments()
MANY = [DOCUMENTS.image(f"app:{number}", ["base", f"app-{number}"]) for number in range(40)]


async def attached() -> MemoryContainerd:
    """The images, with the records that a pull would have made."""
    containerd = MemoryContainerd()
    chains = {str(layer.chain_id) for image in MANY for layer in image.layers}
    containerd.snapshotters["imagecache"] = FakeSnapshotter(chains=chains)
    await NodeAttacher(containerd, DOCUMENTS, FakeClock()).attach(bundle(*MANY))
    return containerd


def records(containerd: MemoryContainerd) -> set[str]:
    return set(containerd.spaces[CRI_NAMESPACE].images)


async def test_all_that_cri_has_left_out_is_shown_to_it() -> None:
    containerd = await attached()
    before = dict(containerd.spaces[CRI_NAMESPACE].images)
    names = {name for name in records(containerd) if not name.startswith("sha256:")}
    containerd.left_out = set(names)
    assert set(await restore(containerd)) == names
    assert containerd.left_out == set()
    assert containerd.spaces[CRI_NAMESPACE].images == before


async def test_what_cri_has_is_left_alone() -> None:
    containerd = await attached()
    containerd.left_out = {"docker.io/library/app:7"}
    assert await restore(containerd) == ("docker.io/library/app:7",)
    assert await restore(containerd) == ()


async def test_a_record_that_cri_never_handled_is_not_shown_to_it() -> None:
    containerd = await attached()
    images = containerd.spaces[CRI_NAMESPACE].images
    name = "docker.io/library/by-hand:1"
    images[name] = replace(images["docker.io/library/app:7"], name=name, labels={})
    containerd.left_out = {name}
    assert await restore(containerd) == ()


@pytest.mark.parametrize("name", ["app:latest", "a", "dead", "not a name", "docker.io/library/app:1@sha256:00"])
async def test_a_name_that_cri_looks_up_as_another_one_is_not_asked_for(name: str) -> None:
    """`ctr -n k8s.io images tag` makes such records, and CRI labels them; "a" may be the beginning of several ids."""
    containerd = await attached()
    images = containerd.spaces[CRI_NAMESPACE].images
    images[name] = replace(images["docker.io/library/app:7"], name=name)
    containerd.left_out = {name}
    assert await restore(containerd) == ()


async def test_an_image_whose_document_is_gone_is_rightly_left_out() -> None:
    containerd = await attached()
    space = containerd.spaces[CRI_NAMESPACE]
    del space.content[space.images["docker.io/library/app:7"].target]
    containerd.left_out = {"docker.io/library/app:7"}
    assert await restore(containerd) == ()


async def test_without_cri_there_is_nothing_to_show() -> None:
    containerd = await attached()
    containerd.cri = False
    assert await restore(containerd) == ()


async def test_a_containerd_that_is_away_is_asked_again_later() -> None:
    containerd = await attached()
    containerd.running = False
    with pytest.raises(ContainerdUnavailable):
        await restore(containerd)
