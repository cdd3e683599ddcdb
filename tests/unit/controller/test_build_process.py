"""Builds in real processes of their own, from a registry on loopback; and the whole controller around them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import pytest_asyncio

from imagecache.api.building import BuildRequest
from imagecache.api.parse import stored
from imagecache.api.pull_secrets import PullSecret
from imagecache.api.types import Phase, Status
from imagecache.apps.bundle_store import LocalBundles
from imagecache.apps.controller import ClusterController
from imagecache.builder.build_events import Advanced, BuildEvent, ImageReady, ImageResolved, LayerPlan, Planned
from imagecache.clock import SystemClock
from imagecache.controller import build_messages
from imagecache.controller.build_messages import Order
from imagecache.controller.build_process import ProcessBuilder
from imagecache.controller.child import Command
from imagecache.digest import Digest
from imagecache.errors import (
    ImageNotFound,
    InternalError,
    InvalidSetting,
    NotFound,
    RateLimited,
    RegistryUnavailable,
    RegistryUntrusted,
    Unauthenticated,
)
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.resources import IMAGE_CACHES, LEASES, NODE_IMAGE_CACHES, NODES, PODS
from imagecache.limits import GIB
from imagecache.match.keys import GATE, MATCHED, PIN
from imagecache.oci.descriptor import Platform
from imagecache.settings.flags import as_flags
from imagecache.settings.load import load
from imagecache.settings.table import Settings
from imagecache.store.store import Store
from imagecache.telemetry.metrics import Metrics
from testkit.images import tar_of
from testkit.images_oci import memory_image
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer
from testkit.peers.registry import free_port
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
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def builder(self) -> ProcessBuilder:
        return ProcessBuilder(as_flags(self.settings), self.metrics, SystemClock())

    @property
    def store(self) -> LocalBundles:
        return LocalBundles(Store.open(self.settings.store))

    def request(self, *images: str) -> BuildRequest:
        return BuildRequest(
            bundle_id=ID,
            images=images or (self.reference,),
            platforms=(Platform(os="linux", architecture="amd64"),),
            size_limit=GIB,
            plain_http=frozenset({self.registry.address}),
        )

    def credentials(self, password: str = PASSWORD) -> tuple[PullSecret, ...]:
        auths = {"auths": {self.registry.address: {"username": "u", "password": password}}}
        return (PullSecret("default:cred", json.dumps(auths).encode()),)

    async def build(self, emit: Callable[[BuildEvent], None] = lambda _: None) -> None:
        await self.builder.build(self.request(), self.credentials(), emit)


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    noise = os.urandom(3 << 20)
    async with FakeRegistry(auth="basic", users={"u": PASSWORD}) as registry:
        image = memory_image([tar_of({"usr": None, "usr/a": b"a" * 5000}), tar_of({"noise": noise})])
        settings = Settings(
            store=tmp_path / "store", hosts=tmp_path / "hosts", jobs=1, registry_retries=0, metrics_address=""
        )
        yield Site(registry, settings, registry.push("team/app:1", image))


async def test_a_host_that_nobody_lists_is_not_reached_without_verification(site: Site) -> None:
    """An annotation for registry.k8s.io, and a controller for which loopback is nothing special."""
    for settings, host in (({}, "registry.k8s.io"), ({"insecure_registries": ""}, site.registry.address)):
        builder = ProcessBuilder(as_flags(site.settings) | settings, site.metrics, SystemClock())
        none, one = frozenset[str](), frozenset({host})
        for plain_http, insecure in ((one, none), (none, one)):
            order = replace(site.request(), plain_http=plain_http, insecure=insecure)

            with pytest.raises(RegistryUntrusted, match=re.escape(host)) as caught:
                await builder.build(order, site.credentials(), lambda _event: None)

            assert "insecure_registries" in caught.value.hint
    assert site.registry.seen == []


async def test_a_controller_tells_nothing_of_what_is_no_registry(site: Site) -> None:
    builder = ProcessBuilder(as_flags(site.settings), site.metrics, SystemClock(), discreet=True)
    closed = f"127.0.0.1:{free_port()}/team/app:1"

    with pytest.raises(RegistryUnavailable, match="did not answer as a registry"):
        await builder.build(site.request(closed), site.credentials(), lambda _event: None)
    with pytest.raises(RegistryUnavailable, match="cannot connect"):
        await site.builder.build(site.request(closed), site.credentials(), lambda _event: None)


async def test_the_clusters_controller_lists_nothing_by_itself_and_is_discreet(tmp_path: Path) -> None:
    controller = ClusterController(Store.open(tmp_path), Settings(), SystemClock())

    assert Settings().insecure_registries == ("auto",)
    assert controller._flags["insecure_registries"] == ""
    assert load(controller._flags, {}).insecure_registries == ()
    with pytest.raises(InvalidSetting, match="insecure_registries"):
        await ClusterController(Store.open(tmp_path), Settings(insecure_registries=("http://x",)), SystemClock()).run()


async def test_a_build_reports_and_leaves_a_bundle(site: Site) -> None:
    seen: list[BuildEvent] = []
    await site.build(seen.append)

    assert [image.reference for image in site.store.get(ID).images] == [site.reference]
    assert [type(item) for item in seen if isinstance(item, ImageResolved | ImageReady)] == [ImageResolved, ImageReady]
    progress = [item for item in seen if isinstance(item, Planned | Advanced)]
    assert progress == sorted(progress, key=lambda item: item.done)
    assert progress[-1].done == progress[-1].total > 0
    assert [item.layers for item in progress if isinstance(item, Planned)] == [()]
    assert site.metrics.registry.get_sample_value("imagecache_builds_total", {"reason": "Ready"}) == 1
    assert site.metrics.registry.get_sample_value("imagecache_build_seconds_count") == 1


@pytest.mark.parametrize(
    ("image", "password", "kind"),
    [("team/app:2", PASSWORD, ImageNotFound), ("team/app:1", "wrong", Unauthenticated)],
)
async def test_an_error_comes_back_as_itself(site: Site, image: str, password: str, kind: type[Exception]) -> None:
    reference = f"{site.registry.address}/{image}"
    with pytest.raises(kind) as raised:
        await site.builder.build(site.request(reference), site.credentials(password), lambda _: None)

    assert site.metrics.registry.get_sample_value("imagecache_builds_total", {"reason": kind.__name__}) == 1
    assert getattr(raised.value, "image", "") == reference
    assert PASSWORD not in str(raised.value)


async def test_a_stopped_build_ends_its_process_and_goes_on_next_time(site: Site) -> None:
    started = asyncio.Event()
    task = asyncio.create_task(site.build(lambda _: started.set()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    with pytest.raises(NotFound):
        site.store.get(ID)
    await site.build()
    assert site.store.get(ID).id == ID


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by signal SIGKILL"),
        ("import sys; sys.exit(3)", "ended with status 3"),
        ("print('nonsense', flush=True)", "is not a message"),
    ],
)
async def test_a_process_that_breaks_is_our_error(site: Site, program: str, message: str) -> None:
    builder = ProcessBuilder({}, Metrics(), SystemClock(), starter=Command((sys.executable, "-c", program)))

    with pytest.raises(InternalError, match=message):
        await builder.build(site.request(), (), lambda _: None)


async def test_a_process_that_does_not_stop_is_killed(site: Site) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(1000)")
    builder = ProcessBuilder({}, Metrics(), SystemClock(), starter=Command(command))
    task = asyncio.create_task(builder.build(site.request(), (), lambda _: None))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_an_order_arrives_as_it_was_given_and_shows_no_secret() -> None:
    platforms = tuple(Platform(os="linux", architecture=each) for each in ("amd64", "arm64"))
    request = BuildRequest(ID, ("a",), platforms, 7, complete=False, plain_http=frozenset({"x:1"}))
    credentials = (PullSecret("default:cred", PASSWORD.encode()),)
    order = Order(settings={"jobs": "1"}, request=request, credentials=credentials, docker_config="/x/config.json")

    assert build_messages.decode_order(build_messages.encode(order)) == order
    assert PASSWORD not in repr(order)


def test_events_arrive_as_they_were_emitted() -> None:
    digest = Digest.sha256(b"x")
    plan = LayerPlan(digest, 7, False, ("a", "b"))
    events: list[BuildEvent] = [
        ImageResolved("a", digest, 1, 7),
        Planned((plan,), 0, 14),
        Advanced(digest, 7, 3, 10, 14),
        ImageReady("a", 14, 14),
    ]

    assert [build_messages.decode_line(build_messages.encode(event)) for event in events] == events


def test_settings_survive_the_way_through_flags() -> None:
    settings = Settings(store=Path("/x"), jobs=3, serve_agents=("a", "b"), kubeconfig="", pods=False)

    assert load(dict(as_flags(settings)), {}) == settings


def test_bundles_follow_the_index(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    bundles = LocalBundles(store)

    with pytest.raises(NotFound):
        bundles.get(ID)
    with pytest.raises(NotFound):
        bundles.delete(ID)
    assert bundles.collect().freed == 0


def kubeconfig(directory: Path, url: str) -> str:
    """Its path."""
    text = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "imagecache-system"}}],
        "current-context": "x",
        "users": [{"name": "u", "user": {}}],
    }
    (directory / "kubeconfig").write_text(json.dumps(text))
    return str(directory / "kubeconfig")


async def test_the_whole_controller_on_an_api_over_http(site: Site, tmp_path: Path) -> None:
    """Informers, leader election, a build process and the store, with nothing faked but the two servers."""
    kube = FakeKube(SystemClock())
    async with KubeServer(kube) as server:
        more = {"kubeconfig": kubeconfig(tmp_path, server.url), "insecure_registries": site.registry.address}
        settings = load(as_flags(site.settings) | more, {})
        controller = ClusterController(Store.open(settings.store), settings, SystemClock())
        task = asyncio.create_task(controller.run())
        try:
            reference = f"{site.registry.address}/team/open:1"
            site.registry.auth = ""
            site.registry._images["team/open"] = {"1": site.registry._images["team/app"]["1"]}
            insecure = {"k8s.aliyun.com/plain-http-registry": site.registry.address}
            await kube.create(NODES, {"metadata": {"name": "n"}})
            await kube.create(NODE_IMAGE_CACHES, {"metadata": {"name": "n"}})
            await kube.patch(NODE_IMAGE_CACHES, "n", {"status": {"mode": "proxy"}}, subresource="status")
            held: Object = {"schedulingGates": [{"name": GATE}], "containers": [{"name": "a", "image": reference}]}
            pod: Object = {"metadata": {"name": "web", "annotations": {PIN: "a"}}, "spec": held}
            await kube.create(PODS, pod, namespace="default")
            await kube.create(IMAGE_CACHES, manifest("a", reference, annotations=dict(insecure)))

            async def status() -> Status | None:
                return stored(await kube.get(IMAGE_CACHES, "a")).cache.status

            async def ready() -> bool:
                found = await status()
                return found is not None and found.phase is Phase.READY

            await eventually(ready, lambda: task)
            made = await status()
            assert made is not None
            assert [image.verified for image in made.images] == [True], "its host is listed"
            entry: Object = {"name": "a", "id": made.image_cache_id, "state": "Ready"}
            await kube.patch(NODE_IMAGE_CACHES, "n", {"status": {"caches": [entry]}}, subresource="status")

            async def matched() -> bool:
                found = await kube.get(PODS, "web", namespace="default")
                return objects.texts(found, "metadata", "annotations").get(MATCHED) == made.image_cache_id

            await eventually(matched, lambda: task)
            assert objects.at(await kube.get(PODS, "web", namespace="default"), "spec", "schedulingGates") is None
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


def test_how_long_a_registry_asks_to_wait_reaches_the_controller() -> None:
    for asked in (None, 90.0):
        failed = build_messages.Failed.of(RateLimited("slow down", hint="wait", image="nginx", retry_after=asked))
        line = build_messages.decode_line(build_messages.encode(failed))
        assert isinstance(line, build_messages.Failed)
        error = line.exception()
        assert isinstance(error, RateLimited)
        assert (error.message, error.hint, error.image, error.retry_after) == ("slow down", "wait", "nginx", asked)
    assert isinstance(build_messages.Failed.of(NotFound("x")).exception(), NotFound)
