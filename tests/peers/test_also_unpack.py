"""Runtime handlers with a snapshotter of their own start cached images: real containerds, no blobs, no registry."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError

from imagecache._proto.cri import runtime_pb2 as pb
from imagecache.api.nodes import CacheState
from imagecache.kube.api import Object
from imagecache.kube.resources import IMAGE_CACHES
from imagecache.store.bundle_document import ImageRecord
from imagecache.store.store import Store
from testkit.images import busybox_image, tar_of
from testkit.peers.cluster import Cluster
from testkit.peers.containerd import VERSIONS, Version
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode, Mode
from testkit.peers.processes import wait_until
from testkit.peers.programs import PeerFailed, find, run
from testkit.peers.registry import Registry

pytestmark = pytest.mark.peers
HIDDEN = tar_of({"etc": None, "etc/.wh.group": b"", "srv": None, "srv/data": b"second layer\n"})
"""A layer that hides a file of the layer below."""
LARGE = tar_of({"srv": None, "srv/large": bytes(range(256)) * 100_000})
"""More than one message to containerd holds."""
ABOVE = (HIDDEN, b"", LARGE)
"""Layers of the image above the bottom one; one has nothing in it, not even the end of an archive."""
READ = ["sh", "-c", "cat /srv/data && ! test -e /etc/group && sha256sum </srv/large && echo new > /srv/new"]
_HANDLERS = """\
version = 3
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.two]
  runtime_type = "io.containerd.runc.v2"
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.three]
  runtime_type = "io.containerd.runc.v2"
  snapshotter = "blockfile"
[plugins."io.containerd.snapshotter.v1.blockfile"]
  fs_type = "ext4"
  mount_options = []
  scratch_file = "{scratch}"
"""
_HANDLERS_1_6 = """\
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.two]
  runtime_type = "io.containerd.runc.v2"
"""


@pytest.fixture
def app(directory: Path, registry: Registry) -> str:
    image = busybox_image(directory / "image", *ABOVE)
    return registry.push(f"{directory.name}/app:1", image)


@pytest.fixture
def registry_off(registry: Registry) -> Iterator[Registry]:
    """For tests that stop the shared registry: it is started again."""
    yield registry
    registry.stop()
    registry.start()


def made(directory: Path, pause: str, version: Version = "2.4", mode: Mode = "proxy", setting: str = "") -> CachingNode:
    """A node, not started, whose containerd 2.4 has the handlers ``two`` (overlayfs) and ``three`` (blockfile)."""
    node = CachingNode(directory / "node", version, mode, sandbox_image=pause)
    if setting:
        node.environ["IMAGECACHE_ALSO_UNPACK"] = setting
    if version == "system":
        with node.containerd.config.open("a") as config:
            config.write(_HANDLERS_1_6)
        return node
    scratch = directory / "scratch"
    with scratch.open("wb") as file:
        file.truncate(100 << 20)
    run([find("mkfs.ext4"), "-q", scratch])
    node.containerd.add_drop_in("handlers", _HANDLERS.format(scratch=scratch))
    return node


@asynccontextmanager
async def running(node: CachingNode, pause: str) -> AsyncIterator[Cri]:
    await asyncio.to_thread(node.start)
    try:
        async with Cri(node.address) as cri:
            await cri.pull(pause)
            yield cri
    finally:
        await asyncio.to_thread(node.close)


def image_of(node: CachingNode) -> ImageRecord:
    store = Store(node.store)
    (bundle_id,) = store.bundles.ids()
    return store.bundles.get(bundle_id).images[0]


def chain(node: CachingNode, snapshotter: str) -> set[str]:
    """The image's layers in a snapshotter, but for the bottom one, which the pause image may have."""
    listed = node.containerd.ctr("-n", "k8s.io", "snapshots", "--snapshotter", snapshotter, "ls").split()
    return {str(layer.chain_id) for layer in image_of(node).layers[1:]} & set(listed)


def content(node: CachingNode) -> set[str]:
    """What the content store has of the image's layers: blobs and tars."""
    listed = node.containerd.ctr("-n", "k8s.io", "content", "ls", "-q").split()
    layers = image_of(node).layers[1:]
    return {str(digest) for layer in layers for digest in (layer.blob.digest, layer.diff_id)} & set(listed)


@pytest.mark.parametrize("mode", ["proxy", "native"])
async def test_a_second_handler_starts_without_blobs_or_registry(
    directory: Path, pause: str, app: str, registry_off: Registry, mode: Mode
) -> None:
    node = made(directory, pause, mode=mode)
    async with running(node, pause) as cri:
        printed = await asyncio.to_thread(node.create, "a", [app])
        assert "unpacked into blockfile too\nunpacked into overlayfs too" in printed
        registry_off.stop()
        assert content(node) == set()
        assert len(chain(node, "overlayfs")) == len(chain(node, "blockfile")) == len(ABOVE)
        outputs = {handler: await cri.run(app, READ, handler=handler) for handler in ("", "two", "three")}
        assert outputs["two"] == outputs["three"] == outputs[""]
        assert outputs[""].startswith("second layer\n")

        async with cri.running(app, handler="two") as container:
            node.command("detach", "a")
            await cri.until_absent(app)
            assert (await cri.exec_sync(container, ["cat", "/srv/data"])).stdout == "second layer\n"
            assert len(chain(node, "overlayfs")) == len(ABOVE)
        assert wait_until(lambda: not chain(node, "blockfile"), seconds=30, every=0.2)


async def test_an_image_volume_in_a_second_handler(
    directory: Path, pause: str, app: str, registry_off: Registry
) -> None:
    node = made(directory, pause)
    async with running(node, pause) as cri:
        await asyncio.to_thread(node.create, "a", [app])
        registry_off.stop()
        volume = pb.Mount(container_path="/volume", readonly=True, image=pb.ImageSpec(image=app))
        pod = await cri.run_pod("volume", handler="two")
        container = await cri.create_container(pod, app, ["/bin/sleep", "1000000"], mounts=[volume])
        await cri.start(container)
        assert (await cri.exec_sync(container, ["cat", "/volume/srv/data"])).stdout == "second layer\n"
        await cri.remove_pod(pod)


async def test_detach_takes_the_chain_back(directory: Path, pause: str, app: str) -> None:
    node = made(directory, pause)
    async with running(node, pause):
        await asyncio.to_thread(node.create, "a", [app])
        node.command("detach", "a")
        assert chain(node, "overlayfs") == chain(node, "blockfile") == content(node) == set()


async def test_a_private_image_starts_there_after_the_pull_of_its_pod(directory: Path, pause: str) -> None:
    """The pull fetches manifest and config only; the layers are there already."""
    user = ("user", "correct horse")
    with Registry(directory / "guarded", users=dict([user])) as guarded:
        secret = guarded.push("secret:1", busybox_image(directory / "image", HIDDEN, LARGE))
        node = made(directory, pause)
        config = node.directory / "docker.json"
        token = base64.b64encode(":".join(user).encode()).decode()
        config.write_text(json.dumps({"auths": {guarded.address: {"auth": token}}}))
        node.environ["IMAGECACHE_DOCKER_CONFIG"] = str(config)
        async with running(node, pause) as cri:
            printed = await asyncio.to_thread(node.create, "a", [secret])
            assert "name withheld (private)" in printed
            assert len(chain(node, "overlayfs")) == 2
            assert await cri.image_status(secret) is None
            guarded.clear_requests()
            await cri.pull(secret, auth=user)
            blobs = {request.path for request in guarded.requests() if "/blobs/" in request.path}
            assert len(blobs) == 1, f"only the config: {blobs}"
            assert (await cri.run(secret, READ, handler="two")).startswith("second layer\n")
            await cri.remove_image(secret)
            node.command("detach", "a")
            assert wait_until(lambda: not chain(node, "overlayfs"), seconds=30, every=0.2)


async def test_off_is_said_by_attach_and_by_doctor(directory: Path, pause: str, app: str) -> None:
    node = made(directory, pause, setting="off")
    async with running(node, pause) as cri:
        printed = await asyncio.to_thread(node.create, "a", [app])
        assert "runtime handler two cannot start them: also_unpack is off" in printed
        with pytest.raises(GRPCError, match="not found"):  # what a node without this would do
            await cri.run(app, READ, handler="two")
        told = await asyncio.to_thread(node.try_command, "doctor")
        assert "runtime handler two: its snapshotter overlayfs does not get cached images" in told.stdout

        node.environ["IMAGECACHE_ALSO_UNPACK"] = "auto"
        await asyncio.to_thread(node.command, "attach", "a")
        assert (await cri.run(app, READ, handler="two")).startswith("second layer\n")
        told = await asyncio.to_thread(node.try_command, "doctor")
        assert "runtime handler two: cached images are unpacked into its snapshotter overlayfs too" in told.stdout

        node.environ["IMAGECACHE_ALSO_UNPACK"] = "off"
        await asyncio.to_thread(node.command, "attach", "a")
        assert "imagecache.dev/unpacked" not in node.containerd.ctr("-n", "k8s.io", "content", "ls")


async def test_a_second_handler_of_1_6_uses_ours(directory: Path, pause: str, app: str, registry_off: Registry) -> None:
    """Runtime handlers of containerd 1.6 have no snapshotter of their own."""
    node = made(directory, pause, "system")
    async with running(node, pause) as cri:
        printed = await asyncio.to_thread(node.create, "a", [app])
        assert "unpacked" not in printed
        registry_off.stop()
        assert await cri.run(app, READ, handler="two") == await cri.run(app, READ)
        assert chain(node, "overlayfs") == set()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_snapshotter_that_the_setting_names(
    directory: Path, pause: str, app: str, registry_off: Registry, version: Version
) -> None:
    """Whoever starts containers there, with CRI or without."""
    node = made(directory, pause, version, setting="native,devmapper")
    name = ("-n", "k8s.io", "run", "--rm", "--snapshotter")
    async with running(node, pause):
        await asyncio.to_thread(node.create, "a", [app])
        registry_off.stop()
        assert len(chain(node, "native")) == len(ABOVE)
        assert node.containerd.ctr(*name, "native", app, "test", "cat", "/srv/data") == "second layer\n"
        with pytest.raises(PeerFailed):
            node.containerd.ctr(*name, "overlayfs", app, "test", "cat", "/srv/data")


async def test_its_disk_is_in_the_report_and_a_cache_may_refuse(
    directory: Path, pause: str, app: str, cluster: Cluster
) -> None:
    node = made(directory, pause)
    node.environ |= cluster.environment()
    async with running(node, pause) as cri:
        await cluster.cache("a", app)
        await cluster.until_states(a=CacheState.READY)
        (entry,) = (await cluster.reported()).caches
        assert entry.unpacked_into == ("blockfile", "overlayfs")
        assert entry.unpacked_bytes == 2 * sum(layer.tar_size for layer in image_of(node).layers)
        assert (await cri.run(app, READ, handler="two")).startswith("second layer\n")

        refuse: Object = {"metadata": {"annotations": {"imagecache.dev/also-unpack": "overlayfs"}}}
        await cluster.kube.patch(IMAGE_CACHES, "a", refuse)

        async def left_out() -> bool:
            return (await cluster.reported()).caches[0].unpacked_into == ("overlayfs",)

        await cluster.until(left_out)
        conditions = {each.type: each for each in (await cluster.reported()).conditions}
        assert conditions["HandlersServed"].reason == "AlsoUnpackOff"
        assert "three" in conditions["HandlersServed"].message
        assert (await cri.run(app, READ, handler="two")).startswith("second layer\n")
