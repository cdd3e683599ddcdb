"""KernelMounter beyond its port: what is mounted how, whole images, and what it says when the kernel refuses."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.erofs.reader import LayerImage
from imagecache.erofs.realign import realign
from imagecache.errors import KernelUnsupported, MountFailed
from imagecache.host import loop_devices
from imagecache.host.checks import Status
from imagecache.host.mounter import KernelMounter
from imagecache.host.mountinfo import mounted_at
from imagecache.host.page_cache_trim import drop_second_copy
from imagecache.host.probe_kernel import check_kernel, write_probe_image
from imagecache.snapshotter.mounts import overlay_options
from testkit.peers.processes import mounts_below

pytestmark = pytest.mark.peers


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_probe_image(tmp_path / "image.erofs", b"hello")
    return tmp_path / "image.erofs"


@pytest.fixture
def mounter() -> KernelMounter:
    return KernelMounter()


@pytest.fixture
def target(tmp_path: Path, mounter: KernelMounter) -> Iterator[Path]:
    yield tmp_path / "target"
    mounter.unmount(tmp_path / "target")


def refused(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(1024 + 83)
        file.write(b"\x80")  # an incompatible feature: EINVAL


def test_read_only_and_without_a_loop_device(mounter: KernelMounter, image: Path, target: Path) -> None:
    mounter.mount(image, target)
    found = mounted_at(target)
    assert found is not None
    assert (found.kind, found.source) == ("erofs", str(image))
    assert {"ro", "nosuid", "nodev"} <= set(found.options.split(","))
    assert (target / "probe").read_bytes() == b"hello"
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()


def test_a_mount_of_another_process_is_recognised(mounter: KernelMounter, image: Path, target: Path) -> None:
    mounter.mount(image, target)
    KernelMounter().mount(image, target)
    mounter.unmount(target)
    assert not KernelMounter().mounted(target)


def test_a_loop_device_is_read_only_direct_and_goes_with_the_mount(image: Path) -> None:
    with loop_devices.attached(image) as device:
        assert loop_devices.backing_file(device) == str(image)
        facts = Path("/sys/block", Path(device).name)
        assert [(facts / name).read_text().strip() for name in ("ro", "loop/dio", "loop/autoclear")] == ["1"] * 3
    assert loop_devices.backing_file(device) != str(image)


def test_a_busy_mount_is_not_taken_away(mounter: KernelMounter, image: Path, target: Path) -> None:
    mounter.mount(image, target)
    with (target / "probe").open(), pytest.raises(MountFailed, match="EBUSY") as caught:
        mounter.unmount(target)
    assert "it is in use" in caught.value.hint
    assert mounter.mounted(target)


def test_what_is_no_layer_image(mounter: KernelMounter, tmp_path: Path, target: Path) -> None:
    (tmp_path / "text").write_text("no filesystem" * 1000)
    with pytest.raises(MountFailed, match="EINVAL"):
        mounter.mount(tmp_path / "text", target)


def test_a_kernel_without_512_byte_blocks_needs_the_copy(image: Path, target: Path) -> None:
    refused(image)
    with pytest.raises(KernelUnsupported, match="512-byte blocks"):
        KernelMounter().mount(image, target)


def test_the_copy_is_made_whole_and_goes_with_its_mount(tmp_path: Path, image: Path, target: Path) -> None:
    good = tmp_path / "good.erofs"
    good.write_bytes(image.read_bytes())
    refused(image)
    copies = tmp_path / "copies"
    mounter = KernelMounter(realign=lambda _, descriptor: realign(good, descriptor), copies=copies)
    mounter.mount(image, target)
    found = mounted_at(target)
    assert found is not None
    assert Path(found.source).parent == copies
    assert (target / "probe").read_bytes() == b"hello"
    mounter.mount(image, target)
    mounter.unmount(target)
    assert list(copies.iterdir()) == []


def test_a_failed_copy_leaves_nothing(tmp_path: Path, image: Path, target: Path) -> None:
    def broken(_: Path, descriptor: int) -> None:
        os.write(descriptor, b"half")
        raise MountFailed("disk trouble")

    refused(image)
    mounter = KernelMounter(realign=broken, copies=tmp_path / "copies")
    with pytest.raises(MountFailed, match="disk trouble"):
        mounter.mount(image, target)
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize("layers", [1, 2, 300], ids=["erofs itself", "overlay", "more than a page of options"])
def test_a_whole_image_is_one_mount(
    mounter: KernelMounter, image: Path, tmp_path: Path, target: Path, layers: int
) -> None:
    top = tmp_path / "top.erofs"
    write_probe_image(top, b"top")
    target.mkdir()
    before = mounts_below(tmp_path)
    mounter.mount_image([*[image] * (layers - 1), top], target, tmp_path / ("long" * 10))
    assert (target / "probe").read_bytes() == b"top"
    assert set(mounts_below(tmp_path)) - set(before) == {target}
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()
    with pytest.raises(MountFailed, match="already"):
        mounter.mount_image([image], target, tmp_path)


@pytest.mark.parametrize("layers", [2, 300], ids=["overlay", "more than a page of options"])
def test_a_whole_image_is_on_one_device(image: Path, tmp_path: Path, target: Path, layers: int) -> None:
    mounter = KernelMounter(overlays=overlay_options(layer_images=True, stable_inodes=True))
    top = tmp_path / "top.erofs"
    write_probe_image(top, b"top")
    target.mkdir()
    mounter.mount_image([*[image] * (layers - 1), top], target, tmp_path / "scratch")
    assert (target / "probe").stat().st_dev == target.stat().st_dev


def test_names_with_a_meaning_for_overlayfs(mounter: KernelMounter, tmp_path: Path, target: Path) -> None:
    lowers = [tmp_path / "a:b", tmp_path / "c,d\\e"]
    for lower in lowers:
        lower.mkdir()
        (lower / lower.name[0]).touch()
    target.mkdir()
    mounter.mount_overlay(lowers, target)
    assert sorted(path.name for path in target.iterdir()) == ["a", "c"]


def test_one_directory_is_bound_read_only(mounter: KernelMounter, tmp_path: Path, target: Path) -> None:
    (tmp_path / "a").mkdir()
    target.mkdir()
    mounter.mount_overlay([tmp_path / "a"], target)
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()


def test_the_kernel_probe_tries_everything_and_leaves_nothing(tmp_path: Path) -> None:
    checks = {check.name: check for check in check_kernel(tmp_path, realign)}
    assert set(checks) == {"version", "layer image", "overlay", "loop device"}
    assert all(check.status is Status.OK for check in checks.values()), checks
    assert "straight from the file" in checks["layer image"].detail
    assert list(tmp_path.iterdir()) == []


def test_the_kernel_probe_where_nothing_can_be_written() -> None:
    checks = check_kernel(Path("/proc"), realign)
    assert checks[-1].status is Status.PROBLEM
    assert "/proc" in checks[-1].detail


def resident(file: Path, *, start: int = 0) -> int:
    """Pages of the file, from this position on, that are in the page cache (mincore)."""
    size = file.stat().st_size
    access = mmap.PROT_READ | mmap.PROT_WRITE
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, mmap.MAP_PRIVATE, access) as mapped:
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        address = ctypes.c_char.from_buffer(mapped)
        assert ctypes.CDLL(None).mincore(ctypes.byref(address), ctypes.c_size_t(size), pages) == 0
        del address
        return sum(page & 1 for page in pages[start // mmap.PAGESIZE :])


def big_image(directory: Path) -> Path:
    """4 MiB of content, on the disk: only clean pages can be dropped."""
    image = directory / "big.erofs"
    write_probe_image(image, bytes(range(256)) * 16384)
    with image.open("rb") as file:
        os.fsync(file.fileno())
    return image


def test_the_trim_drops_the_second_copy_and_readers_keep_the_first(
    mounter: KernelMounter, tmp_path: Path, target: Path
) -> None:
    image = big_image(tmp_path)
    drop_second_copy(image)
    mounter.mount(image, target)
    (target / "probe").read_bytes()
    cached_by_mount = resident(target / "probe")
    assert cached_by_mount >= 1024
    assert resident(image) >= 1024

    drop_second_copy(image)
    assert resident(image) < 64
    assert resident(target / "probe") == cached_by_mount
    assert (target / "probe").read_bytes() == bytes(range(256)) * 16384
    assert resident(image) < 64


def test_the_trim_leaves_metadata_which_have_no_other_copy(
    mounter: KernelMounter, tmp_path: Path, target: Path
) -> None:
    image = big_image(tmp_path)
    with LayerImage.open(image) as layer:
        metadata = layer.content.stop
    mounter.mount(image, target)
    (target / "probe").read_bytes()
    there = resident(image, start=metadata)
    assert there

    drop_second_copy(image)
    assert resident(image) < 64
    assert resident(image, start=metadata) == there
