"""One image as a mounted tree, made in two ways: by containerd's own unpack, and by our build.

``containerd_tree`` and ``our_tree`` are context managers that give a directory and take the mount away. The refusals of
each side are told apart from failures of the harness: ``Refused``.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from imagecache.builder.bundle_builder import BuildSettings, BundleBuilder
from imagecache.builder.resolve_platforms import Platforms
from imagecache.clock import SystemClock
from imagecache.digest import chain_ids
from imagecache.errors import ContentError
from imagecache.host.mounter import KernelMounter
from imagecache.limits import TIB
from imagecache.oci.descriptor import Platform
from imagecache.store.bundle_document import ImageRecord
from imagecache.store.store import Store
from testkit.layout_source import LayoutSource
from testkit.oci_layout import Image, host_architecture
from testkit.peers.containerd import Containerd
from testkit.peers.programs import PeerFailed, find, run
from testkit.peers.registry import Registry

_NAMESPACE = "differential"


class Refused(Exception):
    """The image is one that this side does not unpack."""


@contextlib.contextmanager
def containerd_tree(containerd: Containerd, registry: Registry, image: Image, target: Path) -> Iterator[Path]:
    """Pull with the overlayfs snapshotter and mount a view of the image at ``target``."""
    reference = registry.push(f"differential/{uuid4().hex}:1", image)
    try:
        containerd.ctr("-n", _NAMESPACE, "images", "pull", "--plain-http", "--snapshotter=overlayfs", reference)
    except PeerFailed as error:
        raise Refused(str(error)) from error
    key = uuid4().hex
    snapshots = ("-n", _NAMESPACE, "snapshots", "--snapshotter=overlayfs")
    top = chain_ids(image.diff_ids)[-1]
    command = shlex.split(containerd.ctr(*snapshots, "view", "--target", str(target), key, top))
    target.mkdir()
    snapshots_root = containerd.root / "io.containerd.snapshotter.v1.overlayfs/snapshots"
    words = [word.replace(f"{snapshots_root}/", "") for word in command]  # mount(2) takes one page of options
    run([find(words[0]), *words[1:]], cwd=snapshots_root)
    try:
        yield target
    finally:
        run([find("umount"), target])  # nothing is removed: containerd's collector would take other tests' views too


async def build(store: Store, image: Image) -> ImageRecord:
    """Build a snapshot of the image in ``store``. Raises Refused."""
    builder = BundleBuilder(store, SystemClock(), BuildSettings(jobs=1))
    reference = f"localhost/differential:{uuid4().hex}"
    try:
        document = await builder.build(
            f"imc-{uuid4().hex[:20]}",
            [reference],
            platforms=Platforms((Platform(os="linux", architecture=host_architecture()),)),
            size_limit=TIB,
            source=LayoutSource({reference: image}),
            emit=lambda _event: None,
        )
    except ContentError as error:
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
