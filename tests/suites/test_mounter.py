"""The mounter suite on this kernel: straight from the file, on loop devices, and through copies with larger blocks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.host.mounter import KernelMounter, OnLoop
from imagecache.host.probe_kernel import write_probe_image
from testkit.suites.mounter import Bench, MounterSuite

pytestmark = pytest.mark.peers


def images(directory: Path) -> tuple[Path, Path]:
    paths = directory / "one.erofs", directory / "two.erofs"
    for path in paths:
        write_probe_image(path, path.name.encode())
    return paths


class TestFromTheFile(MounterSuite):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        return Bench(KernelMounter(), *images(tmp_path), tmp_path / "mounts")


class TestOnLoopDevices(MounterSuite):
    """A file on overlayfs is one that the kernel mounts only through a block device."""

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        below, empty, stacked = (tmp_path / name for name in ("below", "empty", "stacked"))
        for directory in (below, empty, stacked):
            directory.mkdir()
        images(below)
        mounter = KernelMounter()
        mounter.mount_overlay([below, empty], stacked)
        yield Bench(mounter, stacked / "one.erofs", stacked / "two.erofs", tmp_path / "mounts")
        mounter.unmount(stacked)


class TestOnLoopDevicesThatAreAskedFor(MounterSuite):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        return Bench(KernelMounter(on_loop=OnLoop(lambda _: True)), *images(tmp_path), tmp_path / "mounts")


class TestThroughCopies(MounterSuite):
    """Images that the kernel refuses, and a realign that knows what they should have been."""

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        (tmp_path / "good").mkdir()
        for image in images(tmp_path / "good"):
            data = bytearray(image.read_bytes())
            data[1024 + 83] = 0x80  # an incompatible feature: EINVAL, as for a block size that is not known
            (tmp_path / image.name).write_bytes(data)

        def realign(source: Path, target: int) -> int:
            return os.write(target, (tmp_path / "good" / source.name).read_bytes())

        mounter = KernelMounter(realign=realign, copies=tmp_path / "copies")
        return Bench(mounter, tmp_path / "one.erofs", tmp_path / "two.erofs", tmp_path / "mounts")
