"""Images mounted straight from the store: which one a name means, and which mounts are ours to undo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.errors import InvalidInput, NotFound
from imagecache.host.image_mounts import SCRATCH, ImageMounts
from imagecache.host.mounter import KernelMounter
from imagecache.oci.descriptor import Platform
from imagecache.store.store import Store
from testkit.store import put_bundle

OLD, NEW = "imc-aaaaaaaaaaaaaaaaaaaa", "imc-bbbbbbbbbbbbbbbbbbbb"
DIFF_ID = DiffID(Digest.sha256(b"base"))


class RecordingMounter(KernelMounter):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[object] = []

    def mount_image(self, images: Sequence[Path], target: Path, scratch: Path) -> None:
        self.calls.append((list(images), target, scratch))

    def unmount(self, target: Path) -> None:
        self.calls.append(target)


@pytest.fixture
def mounts(tmp_path: Path) -> ImageMounts:
    store = Store.open(tmp_path / "store")
    put_bundle(store, OLD, [DIFF_ID], [b"base"])
    (tmp_path / "mountinfo").touch()
    (tmp_path / "mnt").mkdir()
    return ImageMounts(store, RecordingMounter(), Platform(os="linux", architecture="amd64"), tmp_path / "mountinfo")


def calls(mounts: ImageMounts) -> list[object]:
    assert isinstance(mounts.mounter, RecordingMounter)
    return mounts.mounter.calls


@pytest.mark.parametrize("name", ["busybox", "docker.io/library/busybox", "busybox:latest"])
def test_a_name_as_written_or_normalised(mounts: ImageMounts, tmp_path: Path, name: str) -> None:
    bundle, image = mounts.mount(name, tmp_path / "mnt")

    assert (bundle.id, image.reference) == (OLD, "busybox")
    assert calls(mounts) == [([mounts.store.layers.path(image.layers[0].name)], tmp_path / "mnt", SCRATCH)]


def test_an_image_that_no_bundle_has(mounts: ImageMounts, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="alpine"):
        mounts.mount("alpine", tmp_path / "mnt")


def test_an_image_without_layers(mounts: ImageMounts, tmp_path: Path) -> None:
    put_bundle(mounts.store, NEW, [], [])
    mounts.store.bundles.delete(OLD)

    with pytest.raises(InvalidInput, match="no layers"):
        mounts.mount("busybox", tmp_path / "mnt")


def test_a_directory_that_does_not_exist(mounts: ImageMounts, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a directory") as caught:
        mounts.mount("busybox", tmp_path / "none")
    assert "mkdir" in caught.value.hint


@pytest.mark.parametrize(
    ("mount", "ours"),
    [
        ("erofs {store}/layers/x.erofs ro", True),
        ("erofs /dev/loop4000 ro", False),
        ("overlay overlay ro,lowerdir={scratch}/1:{scratch}/0", True),
        ("overlay overlay ro,lowerdir=/a:/b", False),
        ("tmpfs {store} rw", False),
    ],
)
def test_only_mounts_of_this_store_are_undone(mounts: ImageMounts, tmp_path: Path, mount: str, *, ours: bool) -> None:
    target = tmp_path / "mnt"
    words = mount.format(store=mounts.store.root, scratch=SCRATCH)
    mounts.mountinfo.write_text(f"30 20 0:26 / {target} ro - {words}\n")

    if ours:
        mounts.unmount(target)
        assert calls(mounts) == [target]
    else:
        with pytest.raises(NotFound):
            mounts.unmount(target)
        assert calls(mounts) == []


def test_nothing_is_mounted(mounts: ImageMounts, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no image of this store"):
        mounts.unmount(tmp_path / "mnt")
