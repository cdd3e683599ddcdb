"""Attach on real containerds, with no registry: CRI lists the images, containers run and write, detach ends it."""

import asyncio
import threading
import tomllib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imagecache.builder.bundle_builder import BundleBuilder
from imagecache.builder.resolve_platforms import Platforms
from imagecache.clock import SystemClock
from imagecache.containerd.attach import AttachSettings, NodeAttacher
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.native import NativeUse
from imagecache.errors import BlobNotFound, ContainerdMisconfigured, ImageNotListed
from imagecache.host.checks import Status
from imagecache.host.containerd_config import ContainerdConfig
from imagecache.host.dropin import DropInSettings
from imagecache.host.mounter import KernelMounter
from imagecache.host.page_cache_trim import follow_starts
from imagecache.host.probe_containerd import ContainerdExpectations, check_containerd
from imagecache.host.probe_id_maps import why_ids_are_not_mapped
from imagecache.oci.descriptor import Platform
from imagecache.settings.choices import Mode
from imagecache.snapshotter.grpc_server import serve
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.store.bundle_document import Bundle
from imagecache.store.store import Store
from testkit.attachable import MemoryDocuments, bundle
from testkit.images import busybox_image, busybox_tar, tar_of
from testkit.layout_source import LayoutSource
from testkit.oci_layout import Image, ImageConfig, LayerSpec, Layout
from testkit.peers.containerd import Containerd, Version
from testkit.peers.cri import Cri
from testkit.peers.processes import unmount_below
from testkit.peers.programs import run
from testkit.peers.registry import Registry

pytestmark = pytest.mark.peers
IMAGE = "registry.invalid/team/app:1.4"
INTEGRATIONS: list[tuple[Version, Mode]] = [("system", Mode.PROXY), ("2.4", Mode.PROXY), ("2.4", Mode.NATIVE)]


class Agent:
    """Our snapshotter in a thread with an event loop of its own, as it has in its own process."""

    def __init__(self, directory: Path, store: Store) -> None:
        self.socket = directory / "snapshotter.sock"
        self.root = directory / "snapshotter"
        self._snapshotter = Snapshotter(self.root, store.provider, KernelMounter(), SystemClock())
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(serve(self._snapshotter, self.socket, ready=self._ready.set))
        await asyncio.wait([self._task])

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        assert self._loop is not None
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
        self._snapshotter.close()
        unmount_below(self.root)  # our mounts outlive us on purpose


@dataclass
class Node:
    containerd: Containerd
    client: ContainerdClient
    cri: Cri
    store: Store
    bundle: Bundle
    mode: Mode

    def attacher(self, **settings: object) -> NodeAttacher:
        chosen = replace(AttachSettings(), **settings)  # type: ignore[arg-type]
        return NodeAttacher(self.client, self.store.blobs, SystemClock(), chosen)

    async def listed(self) -> set[str]:
        images = await self.cri.images()
        return {
            name for image in images for name in (*image.repo_tags, *image.repo_digests) if "registry.invalid" in name
        }

    async def snapshots(self) -> set[str]:
        name = "erofs" if self.mode is Mode.NATIVE else "imagecache"
        ours = {layer.chain_id for layer in self.bundle.images[0].layers[1:]}  # the pause image shares the bottom one
        return {info.name async for info in self.client.session("k8s.io").snapshots.list(name)} & ours


@pytest.fixture(scope="module")
def built(peers_directory: Path) -> tuple[Store, Bundle]:
    """A store with a bundle of one image of five layers, from a layout on disk."""
    directory = peers_directory / "attach"
    extra = [tar_of({"srv/": None, f"srv/{number}": f"layer {number}".encode()}) for number in range(4)]
    image = busybox_image(directory / "image", *extra)
    store = Store.open(directory / "store")
    return store, asyncio.run(build(store, "0", IMAGE, image))


async def build(store: Store, name: str, reference: str, image: Image, *machines: str) -> Bundle:
    """A bundle of one image, whose id ends with ``name``; without ``machines`` for amd64."""
    return await BundleBuilder(store, SystemClock()).build(
        f"imc-{name:0>20}",
        [reference],
        platforms=Platforms(tuple(Platform(os="linux", architecture=each) for each in machines or ("amd64",))),
        size_limit=1 << 30,
        source=LayoutSource({reference: image}),
        emit=lambda _event: None,
    )


@pytest.fixture(params=INTEGRATIONS, ids=lambda param: f"{param[0]}-{param[1].value}")
def installed(
    request: pytest.FixtureRequest, directory: Path, pause: str, built: tuple[Store, Bundle]
) -> Iterator[tuple[Containerd, Mode]]:
    """A containerd that runs with our drop-in, beside the agent if the mode needs one."""
    version, mode = request.param
    containerd = Containerd(directory / "node", version, sandbox_image=pause)
    agent = Agent(directory, built[0])
    installation(containerd, mode, agent, built[0]).install()
    agent.start()
    try:
        with containerd:
            yield containerd, mode
    finally:
        agent.stop()


def installation(containerd: Containerd, mode: Mode, agent: Agent, store: Store) -> ContainerdConfig:
    settings = DropInSettings(
        mode=mode,
        containerd="1.6.20" if containerd.version == "system" else "2.4.2",
        platform="linux/amd64",
        snapshotter="imagecache",
        socket=agent.socket,
        root=agent.root,
        layers=store.root / "layers",
    )
    return ContainerdConfig(containerd.config, settings, lambda: not why_ids_are_not_mapped(agent.root))


@pytest.fixture
async def node(installed: tuple[Containerd, Mode], built: tuple[Store, Bundle]) -> AsyncIterator[Node]:
    containerd, mode = installed
    async with ContainerdClient(containerd.address, SystemClock()) as client, Cri(containerd.address) as cri:
        yield Node(containerd, client, cri, *built, mode)


async def test_a_container_runs_and_writes_without_any_pull(node: Node) -> None:
    assert (await node.attacher().choice()).mode is node.mode
    result = await node.attacher().attach(node.bundle)
    image = node.bundle.images[0]
    by_digest = f"registry.invalid/team/app@{image.target.digest}"
    assert set(result.images) == {IMAGE, by_digest, image.config.digest}
    assert await node.listed() == {IMAGE, by_digest}
    for name in result.images:
        status = await node.cri.image_status(name)
        assert status is not None
        assert status.id == image.config.digest
    output = await node.cri.run(IMAGE, ["/bin/sh", "-c", "cat /srv/0 /srv/3; echo new > /srv/0; cat /srv/0"])
    assert output == "layer 0layer 3new\n"
    assert await node.cri.run(by_digest, ["/bin/cat", "/srv/0"]) == "layer 0"

    assert await node.attacher().attach(node.bundle) == result
    assert set(await node.attacher().detach(node.bundle)) == set(result.images)
    assert await node.listed() == set()
    assert await node.snapshots() == set()


async def test_layers_of_nothing_are_attached_like_others(node: Node, directory: Path) -> None:
    """Layers of a tar of 0 bytes, as some builders make them for lines of a Dockerfile that change no file."""
    text = tar_of({"srv/": None, "srv/between": b"between"})
    reference = "registry.invalid/team/empty:1"
    image = busybox_image(directory / "image", b"", text, LayerSpec(b"", "zstd"), b"")
    attached = await build(node.store, directory.name, reference, image)
    await node.attacher().attach(attached)
    assert await node.cri.run(reference, ["/bin/sh", "-c", "cat /srv/between; echo x > /srv/new"]) == "between"
    await node.attacher().detach(attached)
    await node.cri.until_absent(reference)


async def test_an_image_whose_config_is_for_another_machine_starts(node: Node, directory: Path) -> None:
    """As many published images have it, where an index says which machine it is for."""
    reference = "registry.invalid/team/wrong:1"
    config = ImageConfig(architecture="s390x")
    attached = await build(node.store, directory.name, reference, busybox_image(directory / "image", config=config))
    assert attached.images[0].notes[0].startswith("its config says linux/s390x")
    await node.attacher().attach(attached)
    assert await node.cri.run(reference, ["/bin/echo", "started"]) == "started\n"
    await node.attacher().detach(attached)


async def test_a_pod_may_be_created_the_moment_attach_returns(node: Node) -> None:
    for _ in range(5):
        await node.attacher().attach(node.bundle)
        assert await node.listed() != set()
        await node.attacher().detach(node.bundle)


async def test_detach_does_not_disturb_a_running_container(node: Node) -> None:
    await node.attacher().attach(node.bundle)
    async with node.cri.running(IMAGE) as container:
        await node.attacher().detach(node.bundle)
        assert await node.listed() == set()
        assert (await node.cri.exec_sync(container, ["/bin/cat", "/srv/3"])).stdout == "layer 3"
        assert len(await node.snapshots()) == 4
        if node.mode is Mode.NATIVE:
            assert await NativeUse(node.client, node.store.root / "layers").names() == node.bundle.layer_names()


async def test_a_private_image_has_no_record_for_kubelet(node: Node) -> None:
    image = msgspec.structs.replace(node.bundle.images[0], private=True)
    private = bundle(image)
    assert (await node.attacher().attach(private)).withheld == (IMAGE,)
    assert await node.listed() == set()
    assert await node.cri.image_status(IMAGE) is None

    elsewhere = await node.attacher(namespace="default").attach(private)
    assert IMAGE in elsewhere.images
    assert IMAGE in node.containerd.ctr("-n", "default", "images", "list", "-q")
    assert await node.listed() == set()
    await node.attacher(namespace="default").detach(private)
    assert IMAGE not in node.containerd.ctr("-n", "default", "images", "list", "-q")


async def test_kubelet_may_not_collect_it(node: Node) -> None:
    """Debian's containerd 1.6 does not know pinned images: there kubelet goes on collecting ours."""
    await node.attacher().attach(node.bundle)
    for name in await node.listed():
        status = await node.cri.image_status(name)
        assert status is not None
        assert status.pinned is (node.containerd.version == "2.4")


async def test_a_pull_of_the_tag_keeps_it_pinned(node: Node, directory: Path, registry: Registry) -> None:
    image = busybox_image(directory / "image", tar_of({"srv/": None, "srv/pulled": b"pulled"}))
    reference = registry.push(f"{directory.name}/app:1", image)
    attached = await build(node.store, directory.name, reference, image)
    await node.attacher().attach(attached)
    await node.cri.pull(reference)
    status = await node.cri.image_status(reference)
    assert status is not None
    assert status.pinned is (node.containerd.version == "2.4")
    await node.attacher().detach(attached)
    await node.cri.until_absent(reference)


async def test_an_image_that_was_pulled_before_is_not_pinned(node: Node, directory: Path, registry: Registry) -> None:
    image = busybox_image(directory / "image", tar_of({"srv/": None, "srv/before": b"before"}))
    reference = registry.push(f"{directory.name}/app:1", image)
    await node.cri.pull(reference)
    await node.attacher().attach(await build(node.store, directory.name, reference, image))
    status = await node.cri.image_status(reference)
    assert status is not None
    assert not status.pinned


async def test_an_image_of_another_architecture_is_no_image_here(node: Node, directory: Path) -> None:
    """CRI has no image where containerd has all records; beside it, the one for this machine is there."""
    layout = Layout(directory / "image")
    bottom = LayerSpec(busybox_tar())
    machines = ("amd64", "arm64")
    images = [
        layout.add_image(
            [bottom, LayerSpec(tar_of({"srv/": None, f"srv/{each}": b"x"}))], ImageConfig(architecture=each)
        )
        for each in machines
    ]
    index = layout.add_index(images, [{"os": "linux", "architecture": each} for each in machines])
    both = await build(node.store, directory.name, IMAGE, index, *machines)
    own, other = (Platform(os="linux", architecture=each) for each in machines)

    with pytest.raises(ImageNotListed, match="CRI does not have it"):
        await node.attacher(visible=0.2).attach(both.on(other))
    assert await node.cri.image_status(IMAGE) is None
    await node.attacher().detach(both.on(other))

    await node.attacher().attach(both.on(own))
    status = await node.cri.image_status(IMAGE)
    assert status is not None
    assert status.id == both.on(own).images[0].config.digest
    assert await node.cri.run(IMAGE, ["/bin/ls", "/srv"]) == "amd64\n"
    await node.attacher().detach(both.on(own))
    assert await node.listed() == set()


async def test_a_layer_that_the_node_does_not_have_is_never_promised(node: Node) -> None:
    documents = MemoryDocuments()
    unknown = bundle(documents.image(IMAGE, ["unknown", "layers"]))
    attacher = NodeAttacher(node.client, documents, SystemClock())
    with pytest.raises((BlobNotFound, ContainerdMisconfigured), match="layer image") as caught:
        await attacher.attach(unknown)
    assert caught.value.hint
    assert await node.listed() == set()
    session = node.client.session("k8s.io")
    left = [info.name async for info in session.snapshots.list((await attacher.choice()).snapshotter)]
    assert not [name for name in left if name.startswith("extract-")]


async def test_the_drop_in_changes_what_it_must_and_nothing_else(
    installed: tuple[Containerd, Mode],
) -> None:
    containerd, mode = installed
    name = "erofs" if mode is Mode.NATIVE else "imagecache"
    effective = await asyncio.to_thread(dump, containerd)
    if containerd.version == "system":
        cri = effective["plugins"]["io.containerd.grpc.v1.cri"]
        assert cri["containerd"]["snapshotter"] == name
        assert cri["restrict_oom_score_adj"] is True
        assert cri["registry"]["config_path"]
        sandbox = cri["sandbox_image"]
    else:
        images = effective["plugins"]["io.containerd.cri.v1.images"]
        assert images["snapshotter"] == name
        assert images["registry"]["config_path"]
        assert effective["plugins"]["io.containerd.cri.v1.runtime"]["restrict_oom_score_adj"] is True
        unpack = effective["plugins"]["io.containerd.transfer.v1.local"]["unpack_config"]
        assert [entry["snapshotter"] for entry in unpack] == ["overlayfs", name]
        sandbox = images["pinned_images"]["sandbox"]
    assert sandbox.endswith("/pause:1")
    assert ("imagecache" in effective.get("proxy_plugins", {})) is (mode is Mode.PROXY)


@pytest.mark.parametrize("installed", [("2.4", Mode.NATIVE)], indirect=True)
async def test_native_starts_are_followed_to_the_files_they_read(node: Node) -> None:
    await node.attacher().attach(node.bundle)
    names = node.bundle.layer_names()
    expected = {node.store.root / name.path for name in names}
    seen: asyncio.Queue[set[Path]] = asyncio.Queue()
    following = asyncio.create_task(follow_starts(node.client, lambda files: seen.put_nowait(set(files)), pause=0))
    await node.cri.run(IMAGE, ["/bin/true"])
    async with asyncio.timeout(10):
        while await seen.get() != expected:
            pass
    following.cancel()


async def test_doctor_finds_nothing_wrong(node: Node, directory: Path) -> None:
    expected = ContainerdExpectations(
        address=node.containerd.address,
        snapshotter="imagecache",
        mode=Mode.AUTO,
        root=directory / "snapshotter",
        layers=node.store.root / "layers",
    )
    await node.cri.remove_pod(await node.cri.run_pod("pulls-pause"))
    checks = {check.name: check for check in (await check_containerd(node.client, expected))[0]}
    if node.containerd.version == "system":
        assert "io.containerd.snapshotter.v1.imagecache" in checks.pop("image filesystem").remedy
    assert {name for name, check in checks.items() if check.status is not Status.OK} == set(), checks
    assert {"connection", "integration", "default snapshotter", "pause image"} <= set(checks)


def containerd_program(containerd: Containerd) -> Path:
    """The running daemon's own."""
    return Path(f"/proc/{containerd.pid}/exe").resolve()


def dump(containerd: Containerd) -> dict[str, Any]:
    """What containerd itself makes of all its configuration files."""
    text = run([containerd_program(containerd), "--config", containerd.config, "config", "dump"])
    return tomllib.loads(text)
