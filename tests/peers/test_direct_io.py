"""Layer images on loop devices: where the kernel needs them, and where programs read with O_DIRECT (ADR 21)."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from imagecache.apps.mount import mounter as node_mounter
from imagecache.erofs.realign import realign
from imagecache.errors import MountFailed
from imagecache.host import loop_devices
from imagecache.host.checks import Status
from imagecache.host.mounter import KernelMounter, OnLoop, backing
from imagecache.host.mountinfo import MOUNTINFO, mounted_at, parse
from imagecache.host.probe_kernel import check_kernel, write_probe_image
from imagecache.settings.choices import MountFrom
from imagecache.settings.table import Settings
from testkit.peers.containerd import Version
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode
from testkit.peers.processes import mounts_below
from testkit.peers.programs import find, run
from testkit.peers.registry import Registry
from testkit.sameness.image import PROGRAM, probe_image

pytestmark = pytest.mark.peers
CONTENT = bytes(range(256)) * 4096
"""One MiB."""


class Wanted:
    """What caches ask for, as a test changes it."""

    def __init__(self) -> None:
        self.images: set[Path] = set()

    def __call__(self, image: Path) -> bool:
        return image in self.images


@pytest.fixture
def wanted() -> Wanted:
    return Wanted()


@pytest.fixture
def mounter(wanted: Wanted) -> KernelMounter:
    return KernelMounter(on_loop=OnLoop(wanted))


@pytest.fixture
def target(tmp_path: Path, mounter: KernelMounter) -> Iterator[Path]:
    yield tmp_path / "target"
    mounter.unmount(tmp_path / "target")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return written(tmp_path / "image.erofs")


def written(image: Path) -> Path:
    """On the disk: a loop device with direct I/O reads nothing else."""
    write_probe_image(image, CONTENT)
    with image.open("rb") as file:
        os.fsync(file.fileno())
    return image


def source(target: Path) -> str:
    found = mounted_at(target)
    assert found is not None
    return found.source


def read_direct(path: Path, *, later: bool = False) -> bytes:
    """The first page, with O_DIRECT from the start or set on the open file."""
    descriptor = os.open(path, os.O_RDONLY | (0 if later else os.O_DIRECT))
    try:
        if later:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_DIRECT)
        with mmap.mmap(-1, 4096) as page:  # O_DIRECT needs a page's start
            os.preadv(descriptor, [page], 0)
            return bytes(page)
    finally:
        os.close(descriptor)


def loops_over(image: Path) -> list[Path]:
    """Loop devices that hold this file."""
    files = {path: loop_devices.backing_file(path.name) for path in Path("/sys/block").glob("loop*")}
    return [path for path, file in files.items() if file == str(image)]


@pytest.mark.parametrize("later", [False, True], ids=["open", "fcntl"])
def test_direct_io_where_it_was_asked_for(
    mounter: KernelMounter, wanted: Wanted, image: Path, target: Path, *, later: bool
) -> None:
    mounter.mount(image, target)
    with pytest.raises(OSError, match="Invalid argument") as caught:
        read_direct(target / "probe", later=later)
    assert caught.value.errno == errno.EINVAL, "a mount from a file can do it by now: no loop device is needed for it"
    mounter.unmount(target)

    wanted.images.add(image)
    mounter.mount(image, target)
    assert source(target).startswith("/dev/loop")
    assert read_direct(target / "probe", later=later) == CONTENT[:4096]
    assert (target / "probe").read_bytes() == CONTENT
    (device,) = loops_over(image)
    assert (device / "loop/dio").read_text().strip() == "1", "what is read would be in the page cache twice"
    mounter.unmount(target)
    assert loops_over(image) == []


def test_direct_io_that_is_asked_for_later(mounter: KernelMounter, wanted: Wanted, image: Path, target: Path) -> None:
    """A container that runs keeps its mount; the directory is never empty; one call takes both mounts away."""
    mounter.mount(image, target)
    container = target.with_name("container")
    upper = target.with_name("upper")
    upper.mkdir()
    container.mkdir()
    mounter.mount_overlay([target, upper], container)
    try:
        wanted.images.add(image)
        mounter.mount(image, target)
        assert source(target).startswith("/dev/loop")
        assert read_direct(target / "probe") == CONTENT[:4096]
        assert (container / "probe").read_bytes() == CONTENT
        before = mounts_below(target)
        mounter.mount(image, target)
        assert mounts_below(target) == before
        wanted.images.clear()
        mounter.mount(image, target)
        assert source(target) == str(image)
        assert (container / "probe").read_bytes() == CONTENT

        mounter.unmount(target)
        assert mounts_below(target) == []
        assert (container / "probe").read_bytes() == CONTENT
    finally:
        mounter.unmount(container)
    assert loops_over(image) == []


def test_another_process_knows_both_mounts(mounter: KernelMounter, wanted: Wanted, image: Path, target: Path) -> None:
    mounter.mount(image, target)
    wanted.images.add(image)
    mounter.mount(image, target)
    another = KernelMounter(on_loop=OnLoop(wanted))
    another.mount(image, target)
    assert len([mount for mount in parse(MOUNTINFO.read_text()) if mount.target == str(target)]) == 2
    another.unmount(target)
    assert not mounter.mounted(target)


@pytest.mark.parametrize(
    ("release", "mount_from", "on_loop"),
    [
        ("6.12.79", MountFrom.AUTO, True),
        ("6.12.79", MountFrom.FILE, False),
        ("6.18.44", MountFrom.AUTO, False),
        ("6.18.44", MountFrom.LOOP, True),
    ],
)
def test_an_affected_kernel_gets_loop_devices(
    tmp_path: Path, image: Path, release: str, mount_from: MountFrom, *, on_loop: bool
) -> None:
    settings = Settings(store=tmp_path / "store", mount_from=mount_from)
    mounter = node_mounter(settings, release=release)
    mounter.mount(image, tmp_path / "target")
    try:
        found = mounted_at(tmp_path / "target")
        assert found is not None
        assert found.source.startswith("/dev/loop") is on_loop
        assert backing(found) == str(image)
        assert (tmp_path / "target" / "probe").read_bytes() == CONTENT
    finally:
        mounter.unmount(tmp_path / "target")


def test_a_mount_that_an_earlier_version_left_on_an_affected_kernel(tmp_path: Path, image: Path, target: Path) -> None:
    KernelMounter().mount(image, target)
    mounter = node_mounter(Settings(store=tmp_path / "store"), release="6.17.0")
    mounter.mount(image, target)
    assert source(target).startswith("/dev/loop")


def test_doctor_names_an_affected_kernel(tmp_path: Path) -> None:
    checks = {check.name: check for check in check_kernel(tmp_path, realign, release="6.12.79")}
    assert checks["version"].status is Status.WARNING
    assert "eade54040384" in checks["version"].remedy
    assert checks["layer image"].status is Status.OK
    assert "on a loop device" in checks["layer image"].detail
    assert list(tmp_path.iterdir()) == []


def test_a_copy_on_a_loop_device_goes_with_its_mount(tmp_path: Path, image: Path, target: Path) -> None:
    """As on kernels before 6.4, which refuse the image itself."""
    good = tmp_path / "good.erofs"
    good.write_bytes(image.read_bytes())
    with image.open("r+b") as file:
        file.seek(1024 + 83)
        file.write(b"\x80")  # an incompatible feature: EINVAL
    copies = tmp_path / "copies"
    mounter = KernelMounter(
        realign=lambda _, descriptor: realign(good, descriptor), copies=copies, on_loop=OnLoop(lambda _: True)
    )
    mounter.mount(image, target)
    assert source(target).startswith("/dev/loop")
    assert (target / "probe").stat().st_blksize == 4096
    assert len(list(copies.iterdir())) == 1
    mounter.unmount(target)
    assert list(copies.iterdir()) == []


def test_a_busy_mount_on_top_stays(mounter: KernelMounter, wanted: Wanted, image: Path, target: Path) -> None:
    mounter.mount(image, target)
    wanted.images.add(image)
    mounter.mount(image, target)
    with (target / "probe").open(), pytest.raises(MountFailed, match="EBUSY"):
        mounter.unmount(target)
    assert source(target).startswith("/dev/loop")


@pytest.fixture
def large_sectors(tmp_path: Path) -> Iterator[Path]:
    """A filesystem on a disk with sectors of 4096 bytes."""
    file, directory = tmp_path / "disk", tmp_path / "mounted"
    with file.open("wb") as disk:
        disk.truncate(64 << 20)
    directory.mkdir()
    device = run([find("losetup"), "--sector-size", "4096", "--find", "--show", file]).strip()
    try:
        run([find("mkfs.ext4"), "-q", "-b", "4096", device])
        run([find("mount"), device, directory])
        try:
            yield directory
        finally:
            run([find("umount"), directory])
    finally:
        run([find("losetup"), "--detach", device])


def test_a_disk_with_sectors_of_4096_bytes(large_sectors: Path, tmp_path: Path) -> None:
    """Its loop device has no direct I/O in blocks of 512 bytes: what programs read with O_DIRECT is cached below."""
    image = written(large_sectors / "image.erofs")
    mounter = KernelMounter(on_loop=OnLoop(lambda _: True))
    mounter.mount(image, tmp_path / "target")
    try:
        assert read_direct(tmp_path / "target" / "probe") == CONTENT[:4096]
        assert (tmp_path / "target" / "probe").read_bytes() == CONTENT
    finally:
        mounter.unmount(tmp_path / "target")


async def answers(cri: Cri, container: str) -> list[str]:
    """Of the questions about O_DIRECT in ``docs/same-as-overlayfs.md``."""
    done = await cri.exec_sync(container, [*PROGRAM, "before"])
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    return [found["direct_read"], found["direct_read_later"]]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["system", "2.4"])
async def test_a_cache_that_asks_for_direct_io(
    directory: Path, registry: Registry, pause: str, version: Version
) -> None:
    """New containers can read with O_DIRECT, those that run go on; the bundle is the same; and so after a restart."""
    reference = registry.push(f"{directory.name}/direct:1", probe_image(directory / "image"))
    with CachingNode(directory / "node", version, sandbox_image=pause) as node:
        node.create("cache", [reference])
        bundle = node.command("get", "cache", "-o", "json")
        async with Cri(node.address, seconds=300) as cri, AsyncExitStack() as stack:
            await cri.pull(pause)
            first = await stack.enter_async_context(cri.running(reference))
            assert await answers(cri, first) == ["EINVAL", "EINVAL"]
            asked = node.manifest("cache", [reference], annotations={"imagecache.dev/direct-io": "true"})
            node.command("apply", "-f", asked)
            async with cri.running(reference) as second:
                assert await answers(cri, second) == ["works", "works"]
            assert (await cri.exec_sync(first, ["cat", "/probe/tiny"])).stdout == "tiny\n"
            node.stop_agent()
            node.start_agent()
            async with cri.running(reference) as third:
                assert await answers(cri, third) == ["works", "works"]
        after = node.command("get", "cache", "-o", "json")
        assert _id(after) == _id(bundle)


def _id(text: str) -> str:
    found: str = json.loads(text)["status"]["imageCacheId"]
    return found
