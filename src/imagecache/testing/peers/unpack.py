"""One image as a mounted tree, made in two ways: by containerd's own unpack, and by our build.

Both are context managers that give a directory and take the mount away. The refusals of each are told apart from
failures of the harness: ``Refused``.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

from imagecache.build.builder import BuildSettings, ImageBuilder
from imagecache.clock import SystemClock
from imagecache.digest import chain_ids
from imagecache.errors import ContentError
from imagecache.limits import TIB
from imagecache.node.mounter import KernelMounter
from imagecache.oci.descriptor import Platform
from imagecache.store.store import Store
from imagecache.testing.layout_source import LayoutSource
from imagecache.testing.oci_layout import Image, host_architecture
from imagecache.testing.peers.containerd import Containerd
from imagecache.testing.peers.programs import PeerFailed, environment, find, run
from imagecache.testing.peers.registry import Registry

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
    run([find(command[0]), *command[1:]], env=environment())
    try:
        yield target
    finally:
        run([find("umount"), target])
        containerd.ctr(*snapshots, "remove", key)
        containerd.ctr("-n", _NAMESPACE, "images", "remove", reference)


@contextlib.asynccontextmanager
async def our_tree(store: Store, image: Image, target: Path) -> AsyncIterator[Path]:
    """Build a snapshot of the image in ``store`` and mount its layer images, stacked, at ``target``."""
    builder = ImageBuilder(store, SystemClock(), BuildSettings(jobs=1))
    reference = f"localhost/differential:{uuid4().hex}"
    try:
        document = await builder.build(
            f"imc-{uuid4().hex[:20]}",
            [reference],
            platform=Platform(os="linux", architecture=host_architecture()),
            size_limit=TIB,
            source=LayoutSource({reference: image}),
            emit=lambda _event: None,
        )
    except ContentError as error:
        raise Refused(str(error)) from error
    (record,) = document.images
    paths = [store.layers.path(layer.name) for layer in record.layers]
    mounter = KernelMounter()
    target.mkdir()
    mounter.mount_image(paths, target, target.with_suffix(".layers"))
    try:
        yield target
    finally:
        mounter.unmount(target)
