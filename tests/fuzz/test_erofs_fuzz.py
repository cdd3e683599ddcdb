"""Damaged and hostile layer images: the reader ends, and fails with MalformedLayer or LimitExceeded only."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagecache.erofs import dirent, xattr
from imagecache.erofs.format import Superblock
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.realign import realign
from imagecache.erofs.writer import plan
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import DEFAULT, MIB
from imagecache.tree import Inode, directory
from testkit.trees import TarStandIn, put, random_tree, symlink, write_layer

LIMITS = replace(DEFAULT, layer_entries=2000, layer_uncompressed=16 * MIB)
"""The second is the size that one sparse file may claim, all of which is read here."""
REFUSED = (MalformedLayer, LimitExceeded)
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF)


def small_tree() -> tuple[Inode, TarStandIn]:
    root, tar = random_tree(random.Random(5), 40)
    for number in range(70):
        put(root, f"many/{number:05}", tar.file(b"content"))
    put(root, "sparse", tar.sparse_file(3_000_000, {4096: b"a" * 3000, 1_000_000: b"b" * 70_000, 2_999_999: b"c"}))
    put(root, "link", symlink(b"target")).xattrs = {b"trusted.a": b"1", b"user.b": b"2" * 50}
    return root, tar


class Seed:
    """An image, and where its metadata lies."""

    def __init__(self, folder: Path, *, realigned: bool) -> None:
        root, tar = small_tree()
        self.path = folder / "image"
        with self.path.open("w+b") as file:
            write_layer(file.fileno(), root, tar)
        if realigned:
            with (folder / "realigned").open("w+b") as file:
                realign(self.path, file.fileno())
            self.path = folder / "realigned"
        self.data = self.path.read_bytes()
        superblock = Superblock.unpack(self.data[1024:1152])
        start = superblock.meta_block << superblock.block_bits
        self.positions = [*range(1024, 1152), *range(2048, 2112), *range(start, len(self.data))]

    def mutated(self, rng: random.Random) -> bytes:
        """A few bytes changed, most of them in metadata, or words copied from one offset to another."""
        data = bytearray(self.data)
        for _ in range(rng.choice([1, 1, 2, 8, 60])):
            position = rng.choice(self.positions)
            if rng.random() < 0.3:
                source = rng.choice(self.positions)
                data[position : position + 8] = data[source : source + 8]
            else:
                data[position] = rng.choice([*INTERESTING, rng.randrange(256)])
        return bytes(data[: len(self.data)])


@pytest.fixture(scope="module", params=[False, True], ids=["512", "4096"])
def seed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seed:
    return Seed(tmp_path_factory.mktemp("seed"), realigned=request.param)


def read_everything(path: Path) -> None:
    with LayerImage.open(path, limits=LIMITS) as image:
        for path_of, inode in image.walk():
            if inode.is_dir:
                image.child(inode, b"00050")
                image.child(inode, path_of[-1] if path_of else b"link")
            elif inode.is_file:
                for _ in image.read(inode):
                    pass
        image.tree()
        if not image.realigned:
            for _ in image.tar():
                pass


def outcome(path: Path, action: Callable[[Path], object]) -> str:
    try:
        action(path)
    except REFUSED as error:
        return type(error).__name__
    return "read"


@pytest.mark.parametrize("batch", range(8))
def test_mutated_images(seed: Seed, batch: int, tmp_path: Path) -> None:
    rng = random.Random(batch)
    outcomes = []
    for _ in range(60):
        (tmp_path / "mutated").write_bytes(seed.mutated(rng))
        outcomes.append(outcome(tmp_path / "mutated", read_everything))
    assert "MalformedLayer" in outcomes


def relaying(path: Path) -> None:
    with Path(f"{path}.realigned").open("w+b") as file:
        realign(path, file.fileno(), limits=LIMITS)
        bound = 4 * path.stat().st_size + 4096 * 2000
        assert os.fstat(file.fileno()).st_size < bound + LIMITS.layer_uncompressed  # holes of sparse files
        assert os.fstat(file.fileno()).st_blocks * 512 < bound


@pytest.mark.parametrize("batch", range(4))
def test_re_laying_mutated_images(seed: Seed, batch: int, tmp_path: Path) -> None:
    rng = random.Random(1000 + batch)
    outcomes = []
    for _ in range(40):
        (tmp_path / "mutated").write_bytes(seed.mutated(rng))
        outcomes.append(outcome(tmp_path / "mutated", relaying))
    assert "MalformedLayer" in outcomes


def lengths(size: int) -> Iterator[int]:
    yield from (0, 1, 1023, 1024, 1151, 2048, 2111, 4095, 4096)
    yield from range(size - 1, 4096, -17_001)


def test_cut_images(seed: Seed, tmp_path: Path) -> None:
    for length in lengths(len(seed.data)):
        (tmp_path / "cut").write_bytes(seed.data[:length])
        assert outcome(tmp_path / "cut", read_everything) == "MalformedLayer"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=6000))
def test_noise_is_no_image(noise: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "noise")
        path.write_bytes(noise)
        assert outcome(path, read_everything) == "MalformedLayer"


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_noise_as_a_directory_block(noise: bytes) -> None:
    try:
        entries = dirent.unpack(noise)
    except MalformedLayer:
        return
    assert dirent.pack(entries)[12 * len(entries) :] == b"".join(entry.name for entry in entries)


@settings(max_examples=500)
@given(st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=40).map(b"".join))
def test_noise_as_xattrs(noise: bytes) -> None:
    try:
        xattrs = xattr.decode(bytes(12) + noise)
    except MalformedLayer:
        return
    assert all(name.partition(b".")[0] in {b"user", b"system", b"trusted", b"security"} for name in xattrs)


def test_directories_that_share_a_huge_listing(tmp_path: Path) -> None:
    """Many inodes may point to one directory block: the number of names in the header bounds the walk."""
    root, tar = directory(), TarStandIn()
    for number in range(50):
        put(root, f"{number:02}", directory())
    large = put(root, "large", directory())
    for number in range(400):
        put(large, f"{number:04}", tar.file(b""))
    path = tmp_path / "image"
    with path.open("w+b") as file:
        write_layer(file.fileno(), root, tar)
        layout = plan(root, 0).layout
        victim = next(placed for placed in layout.inodes if placed.inode is large)
        for placed in layout.inodes:
            if placed.inode.is_dir and placed.inode is not root:
                file.seek(layout.start + placed.offset + 8)
                file.write(victim.size.to_bytes(8, "little") + victim.address.to_bytes(4, "little"))
    assert outcome(path, read_everything) == "MalformedLayer"
