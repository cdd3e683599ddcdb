"""Builds in real processes of their own, from a registry on loopback; and the whole controller around them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from imagecache.api.building import BuildRequest
from imagecache.api.parse import stored
from imagecache.api.pull_secrets import PullSecret
from imagecache.api.types import Event, Phase, Status
from imagecache.apps.controller import ClusterController, LocalBundles, as_flags
from imagecache.clock import SystemClock
from imagecache.controller import build_messages
from imagecache.controller.build_process import ProcessBuilder
from imagecache.controller.dependencies import Job, Progress, Report
from imagecache.errors import ImageNotFound, InternalError, NotFound, Unauthenticated
from imagecache.kube.resources import IMAGE_CACHES, LEASES
from imagecache.limits import GIB
from imagecache.oci.descriptor import Platform
from imagecache.settings.load import load
from imagecache.settings.table import Settings
from imagecache.store.store import Store
from testkit.images import tar_of
from testkit.images_oci import memory_image
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer
from testkit.registry import FakeRegistry

from .conftest import eventually, manifest

ID = "imc-00000000000000000001"
PASSWORD = "hunter2-very-secret"  # noqa: S105 - of the fake registry


@dataclass
class Site:
    """A registry, a store, and settings for it."""

    registry: FakeRegistry
    settings: Settings
    reference: str

    @property
    def builder(self) -> ProcessBuilder:
        return ProcessBuilder(as_flags(self.settings))

    @property
    def store(self) -> LocalBundles:
        return LocalBundles(Store.open(self.settings.store))

    def job(self, *images: str, password: str = PASSWORD) -> Job:
        auths = {"auths": {self.registry.address: {"username": "u", "password": password}}}
        request = BuildRequest(
            bundle_id=ID,
            images=images or (self.reference,),
            platform=Platform(os="linux", architecture="amd64"),
            size_limit=GIB,
            plain_http=frozenset({self.registry.address}),
        )
        return Job(request, (PullSecret("default:cred", json.dumps(auths).encode()),))


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    noise = os.urandom(3 << 20)
    async with FakeRegistry(auth="basic", users={"u": PASSWORD}) as registry:
        image = memory_image([tar_of({"usr": None, "usr/a": b"a" * 5000}), tar_of({"noise": noise})])
        settings = Settings(
            store=tmp_path / "store", hosts=tmp_path / "hosts", jobs=1, registry_retries=0, metrics_address=""
        )
        yield Site(registry, settings, registry.push("team/app:1", image))


async def test_a_build_reports_and_leaves_a_bundle(site: Site) -> None:
    seen: list[Report] = []
    await site.builder.build(site.job(), seen.append)

    assert [image.reference for image in site.store.get(ID).images] == [site.reference]
    assert [item.reason for item in seen if isinstance(item, Event)] == ["Pulling", "Pulled"]
    progress = [item for item in seen if isinstance(item, Progress)]
    assert progress == sorted(progress, key=lambda item: item.done)
    assert progress[-1].done == progress[-1].total > 0


@pytest.mark.parametrize(
    ("image", "password", "kind"),
    [("team/app:2", PASSWORD, ImageNotFound), ("team/app:1", "wrong", Unauthenticated)],
)
async def test_an_error_comes_back_as_itself(site: Site, image: str, password: str, kind: type[Exception]) -> None:
    reference = f"{site.registry.address}/{image}"
    with pytest.raises(kind) as raised:
        await site.builder.build(site.job(reference, password=password), lambda _: None)

    assert getattr(raised.value, "image", "") == reference
    assert PASSWORD not in str(raised.value)


async def test_a_stopped_build_ends_its_process_and_goes_on_next_time(site: Site) -> None:
    started = asyncio.Event()
    task = asyncio.create_task(site.builder.build(site.job(), lambda _: started.set()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    with pytest.raises(NotFound):
        site.store.get(ID)
    await site.builder.build(site.job(), lambda _: None)
    assert site.store.get(ID).id == ID


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by signal SIGKILL"),
        ("import sys; sys.exit(3)", "ended with status 3"),
        ("print('nonsense', flush=True)", "is no message"),
    ],
)
async def test_a_process_that_breaks_is_our_error(site: Site, program: str, message: str) -> None:
    builder = ProcessBuilder({}, (sys.executable, "-c", program))

    with pytest.raises(InternalError, match=message):
        await builder.build(site.job(), lambda _: None)


async def test_a_process_that_does_not_stop_is_killed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecache.controller.build_process._STOP_SECONDS", 0.1)
    builder = ProcessBuilder({}, (sys.executable, "-c", "import time; time.sleep(1000)"))
    task = asyncio.create_task(builder.build(site.job(), lambda _: None))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_an_order_arrives_as_it_was_given_and_shows_no_secret() -> None:
    request = BuildRequest(ID, ("a",), Platform(os="linux", architecture="arm64"), 7, frozenset({"x:1"}))
    job = Job(request, (PullSecret("default:cred", PASSWORD.encode()),))
    order = build_messages.order({"jobs": "1"}, job)

    assert build_messages.decode_order(build_messages.encode(order)) == order
    assert order.job() == job
    assert PASSWORD not in repr(order) + repr(job)


def test_settings_survive_the_way_through_flags() -> None:
    settings = Settings(store=Path("/x"), jobs=3, serve_agents=("a", "b"), kubeconfig="")

    assert load(dict(as_flags(settings)), {}) == settings


def test_bundles_follow_the_index(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    bundles = LocalBundles(store)

    with pytest.raises(NotFound):
        bundles.get(ID)
    with pytest.raises(NotFound):
        bundles.delete(ID)
    assert bundles.collect() == 0


async def test_the_whole_controller_on_an_api_over_http(site: Site, tmp_path: Path) -> None:
    """Informers, leader election, a build process and the store, with nothing faked but the two servers."""
    kube = FakeKube(SystemClock())
    async with KubeServer(kube) as server:
        clusters = [{"name": "c", "cluster": {"server": server.url}}]
        contexts = [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "imagecache-system"}}]
        text = {
            "clusters": clusters,
            "contexts": contexts,
            "current-context": "x",
            "users": [{"name": "u", "user": {}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(text))
        settings = load(as_flags(site.settings) | {"kubeconfig": str(tmp_path / "kubeconfig")}, {})
        controller = ClusterController(Store.open(settings.store), settings, SystemClock())
        task = asyncio.create_task(controller.run())
        try:
            reference = f"{site.registry.address}/team/open:1"
            site.registry.auth = ""
            site.registry._images["team/open"] = {"1": site.registry._images["team/app"]["1"]}
            insecure = {"k8s.aliyun.com/plain-http-registry": site.registry.address}
            await kube.create(IMAGE_CACHES, manifest("a", reference, annotations=dict(insecure)))

            async def status() -> Status | None:
                return stored(await kube.get(IMAGE_CACHES, "a")).cache.status

            async def ready() -> bool:
                found = await status()
                return found is not None and found.phase is Phase.READY

            await eventually(ready, lambda: task)
            assert (await kube.get(LEASES, "imagecache-controller", namespace="imagecache-system"))["spec"]
            await kube.delete(IMAGE_CACHES, "a")

            async def gone() -> bool:
                return not (await kube.list(IMAGE_CACHES)).items

            await eventually(gone, lambda: task)
            assert Store.open(settings.store).bundles.ids() == []
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
