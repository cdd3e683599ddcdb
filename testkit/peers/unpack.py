"""One image as a mounted tree, made in two ways: by containerd's own unpack, and by our build.

``containerd_tree`` and ``our_tree`` are context managers that give a directory and take the mount away. The refusals of
each side are told apart from failures of the harness: ``Refused``.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from grpclib.exceptions import GRPCError

from imagecache.builder.bundle_builder import BuildSettings, BundleBuilder
from imagecache.builder.image_source import ImageSource
from imagecache.builder.resolve_platforms import Platforms
from imagecache.clock import SystemClock
from imagecache.digest import chain_ids
from imagecache.errors import ContentError, InvalidInput, ProtocolViolation
from imagecache.host.mounter import KernelMounter
from imagecache.limits import TIB
from imagecache.oci.descriptor import Platform
from imagecache.registry.client import RegistryClient
from imagecache.registry.config import RegistryConfig
from imagecache.registry.listed_hosts import ListedHosts
from imagecache.store.bundle_document import ImageRecord
from imagecache.store.store import Store
from testkit.layout_source import LayoutSource
from testkit.oci_layout import Image, host_architecture
from testkit.peers.containerd import Containerd
from testkit.peers.cri import Cri
from testkit.peers.programs import PeerFailed, find, run
from testkit.peers.registry import Registry
from testkit.peers.static_registry import StaticRegistry

_NAMESPACE = "differential"


class Refused(Exception):
    """The image is one that this side does not unpack."""


@contextlib.contextmanager
def containerd_tree(
    containerd: Containerd, registry: Registry | StaticRegistry, image: Image, target: Path, *, by_cri: bool = False
) -> Iterator[Path]:
    """Pull with the overlayfs snapshotter and mount a view of the image at ``target``.

    ``by_cri``: as for a kubelet, and not by ctr, whose own code differs from CRI's where images are unusual.
    """
    reference = registry.push(f"differential/{uuid4().hex}:1", image)
    namespace = "k8s.io" if by_cri else _NAMESPACE
    try:
        if by_cri:
            with ThreadPoolExecutor(1) as thread:  # the caller is in an event loop of its own
                thread.submit(asyncio.run, _pull(containerd.address, reference)).result()
        else:
            containerd.ctr("-n", namespace, "images", "pull", "--plain-http", "--snapshotter=overlayfs", reference)
    except (PeerFailed, GRPCError) as error:
        raise Refused(str(error)) from error
    key = uuid4().hex
    snapshots = ("-n", namespace, "snapshots", "--snapshotter=overlayfs")
    top = chain_ids(image.diff_ids)[-1]
    try:
        command = shlex.split(containerd.ctr(*snapshots, "view", "--target", str(target), key, top))
    except PeerFailed as error:
        if f"parent snapshot {top} does not exist" not in str(error):
            raise
        raise Refused("pulled, but not unpacked: no container starts") from error
    target.mkdir()
    snapshots_root = containerd.root / "io.containerd.snapshotter.v1.overlayfs/snapshots"
    words = [word.replace(f"{snapshots_root}/", "") for word in command]  # mount(2) takes one page of options
    run([find(words[0]), *words[1:]], cwd=snapshots_root)
    try:
        yield target
    finally:
        run([find("umount"), target])  # nothing is removed: containerd's collector would take other tests' views too


async def _pull(address: Path, reference: str) -> None:
    async with Cri(address) as cri:
        await cri.pull(reference)


async def build(store: Store, image: Image, registry: StaticRegistry | None = None) -> ImageRecord:
    """Build a bundle of the image in ``store``, from its layout or through a registry. Raises Refused."""
    if registry is None:
        reference = f"localhost/differential:{uuid4().hex}"
        return await _build(store, reference, LayoutSource({reference: image}))
    reference = registry.push(f"differential/{uuid4().hex}:1", image)
    config = RegistryConfig(listed=ListedHosts(loopback=True), plain_http=frozenset({registry.address}))
    async with RegistryClient(config) as source:
        return await _build(store, reference, source)


async def _build(store: Store, reference: str, source: ImageSource) -> ImageRecord:
    builder = BundleBuilder(store, SystemClock(), BuildSettings(jobs=1))
    try:
        document = await builder.build(
            f"imc-{uuid4().hex[:20]}",
            [reference],
            platforms=Platforms((Platform(os="linux", architecture=host_architecture()),)),
            size_limit=TIB,
            source=source,
            emit=lambda _event: None,
        )
    except (ContentError, InvalidInput, ProtocolViolation) as error:
        raise Refused(str(error)) from error
    return document.images[0]


@contextlib.contextmanager
def our_tree(store: Store, record: ImageRecord, target: Path) -> Iterator[Path]:
    """Mount the layer images of a built image, stacked, at ``target``."""
    paths = [store.layers.path(layer.name) for layer in record.layers]
    mounter = KernelMounter()
    target.mkdir()
    mounter.mount_image(paths, target, target.with_suffix(".layers"))
    try:
        yield target
    finally:
        mounter.unmount(target)
