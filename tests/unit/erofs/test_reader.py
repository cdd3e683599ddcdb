"""Layer images read back, and refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from imagecache.erofs.format import INODE, SLOT, Superblock
from imagecache.erofs.image_file import ImageFile
from imagecache.erofs.layer_header import DATA_START, LayerFlags
from imagecache.erofs.layout import Layout
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.realign import realign
from imagecache.erofs.stored_inode import StoredInode
from imagecache.erofs.writer import plan
from imagecache.errors import InvalidInput, LimitExceeded, MalformedLayer, NotFound, StoreDenied, StoreError
from imagecache.layer.implied_directories import LowerTree
from imagecache.limits import DEFAULT
from imagecache.tree import Inode, directory
from testkit.trees import TarStandIn, describe, paths, put, symlink, write_layer, zoo


def write(path: Path, root: Inode, tar: TarStandIn) -> Path:
    with path.open("w+b") as file:
        write_layer(file.fileno(), root, tar)
    return path


@pytest.fixture(params=[9, 12], ids=["512", "4096"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LayerImage]:
    """The zoo with both block sizes."""
    path = write(tmp_path / "layer.erofs", *zoo())
    if request.param == 12:
        with (tmp_path / "realigned.erofs").open("w+b") as file:
            realign(path, file.fileno())
        path = tmp_path / "realigned.erofs"
    with LayerImage.open(path) as opened:
        yield opened


def content(image: LayerImage) -> Callable[[Inode], bytes]:
    return lambda inode: b"".join(image.read(inode))


def test_the_tree_is_read_back(image: LayerImage) -> None:
    root, tar = zoo()
    assert describe(image.tree(), content(image)) == describe(root, tar.content)


def test_walking_gives_every_path_in_order(image: LayerImage) -> None:
    root, _ = zoo()
    walked = dict(image.walk())
    assert list(walked) == [path for path, _ in paths(root)]
    assert walked[b"files", b"linked"] is walked[b"links", b"again"]
    assert walked[()].nid == image.root().nid


def test_lookups_find_what_is_there(image: LayerImage) -> None:
    lower: LowerTree = image
    root, _ = zoo()
    for path, inode in paths(root):
        found: Inode | None = lower.root()
        for name in path:
            assert found is not None
            found = lower.child(found, name)
        assert found is not None
        assert (found.mode, found.uid, found.xattrs, found.target) == (
            inode.mode,
            inode.uid,
            inode.xattrs,
            inode.target,
        )
        if inode.is_dir:
            assert [image.child(found, absent) for absent in (b"", b".", b"..", b"nowhere", b"\xff")] == [None] * 5


def test_children_are_sorted_and_without_dots(image: LayerImage) -> None:
    names = [name for name, _ in image.children(image.root())]
    assert names == sorted(zoo()[0].children)


def test_the_header_says_what_it_is(image: LayerImage) -> None:
    assert image.realigned == (image.block_bits == 12) == (LayerFlags.REALIGNED in image.header.flags)
    assert image.size == os.fstat(image.fileno()).st_size


def test_the_tar_comes_out_unless_it_was_realigned(image: LayerImage) -> None:
    if image.realigned:
        with pytest.raises(InvalidInput, match="realigned"):
            image.tar()
    else:
        _, tar = zoo()
        assert b"".join(image.tar()) == tar.read(0, tar.size)


def test_only_its_own_files_are_read(image: LayerImage) -> None:
    with pytest.raises(TypeError, match="regular"):
        image.read(image.root())
    with pytest.raises(TypeError, match="come from"):
        image.child(directory(), b"x")


def test_a_borrowed_descriptor_stays_open(tmp_path: Path) -> None:
    with write(tmp_path / "layer.erofs", *zoo()).open("rb") as file:
        with LayerImage.from_fd(file.fileno()) as image:
            image.close()
            assert image.fileno() == file.fileno()
        os.fstat(file.fileno())


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        LayerImage.open(tmp_path / "none")
    with pytest.raises(StoreError, match="Not a directory"):
        LayerImage.open(write(tmp_path / "layer.erofs", *zoo()) / "below")
    with pytest.raises(MalformedLayer, match="but has only 0"):
        LayerImage.open(Path("/proc/self/status"))


def test_files_of_others(tmp_path: Path) -> None:
    path = write(tmp_path / "layer.erofs", *zoo())
    path.chmod(0)
    effective = os.geteuid()
    os.seteuid(65_534 if effective == 0 else effective)
    try:
        with pytest.raises(StoreDenied):
            LayerImage.open(path)
    finally:
        os.seteuid(effective)


def test_a_directory_is_no_layer_image(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Is a directory"):
        LayerImage.open(tmp_path)


def test_a_file_that_shrinks_is_malformed(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(1 << 20)
        source = ImageFile(file.fileno())
        file.truncate(0)
        with pytest.raises(MalformedLayer, match="ended at"):
            source.read(0, 10)


def test_old_windows_are_forgotten(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(1 << 23)
        source = ImageFile(file.fileno())
        for window in range(1 << 7):
            assert source.read(window << 16, 5) == bytes(5)
        os.pwrite(file.fileno(), b"changed", 0)
        assert source.read(0, 7) == b"changed"


class Table(NamedTuple):
    position: int
    entries: list[int]
    step: int
    """Blocks of a chunk."""


class Broken:
    """A small image whose bytes are changed where it says."""

    def __init__(self, path: Path) -> None:
        root, tar = directory(), TarStandIn()
        put(root, "a/file", tar.file(b"content"))
        put(root, "b/link", symlink(b"target"))
        put(root, "b/long", symlink(b"t" * 1000))
        put(root, "b/other", tar.file(b"other")).xattrs = {b"user.x": b"y"}
        sparse = put(root, "c/disk", tar.sparse_file(100_000, {600: b"a" * 5000, 50_000: b"b", 99_999: b"c"}))
        sparse.xattrs = {b"user.x": b"y"}
        put(root, "c/hole", tar.sparse_file(100_000, {}))
        self.sparse, self.tar = sparse, tar
        self.path = write(path, root, tar)
        self.layout: Layout = plan(root, tar.size).layout
        self._names = {inode: "/".join(map(bytes.decode, path)) for path, inode in paths(root)}

    def offset(self, name: str) -> int:
        """Position of the inode."""
        placed = next(placed for placed in self.layout.inodes if self._names[placed.inode] == name)
        return self.layout.start + placed.offset

    def table(self, name: str) -> Table:
        """Of the chunks of a sparse file."""
        placed = next(placed for placed in self.layout.inodes if self._names[placed.inode] == name)
        assert placed.copy is not None
        position = self.offset(name) + 64 + len(placed.xattrs)
        data = self.path.read_bytes()[position : position + 4 * placed.copy.chunks.entries]
        entries = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
        return Table(position, entries, 1 << placed.copy.chunks.bits)

    def directory(self, name: str) -> int:
        """Position of the first directory block."""
        return next(d.placed.address for d in self.layout.directories if self._names[d.placed.inode] == name) * 512

    def patch(self, position: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(position)
            file.write(data)

    def read(self) -> None:
        """Everything that can be read."""
        with LayerImage.open(self.path) as image:
            for _, inode in image.walk():
                if inode.is_file:
                    list(image.read(inode))


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return Broken(tmp_path / "broken.erofs")


@pytest.mark.parametrize(
    ("name", "field", "data", "message"),
    [
        ("a/file", 0, b"\x00", "format"),
        ("a/file", 0, b"\x05", "inline content"),
        ("a/file", 5, b"\x00", "no file type"),
        ("a/file", 5, b"\x11", "disagree about the file type"),
        ("a/file", 6, b"\x01", "fields"),
        ("a/file", 63, b"\x01", "fields"),
        ("a/file", 12, b"\xff", "not inside"),
        ("a/file", 16, b"\x00", "not inside"),
        ("a/file", 39, b"\x80", "time"),
        ("a/file", 43, b"\xff", "time"),
        ("a", 8, bytes(8), "empty"),
        ("a", 15, b"\x01", "not inside"),
        ("a", 18, b"\xff", "not inside"),
        ("a", 16, b"\x00", "directory"),
        ("b/link", 8, bytes(8), "target of 0 bytes"),
        ("b/link", 8, b"\x00\x10", "target of 4096 bytes"),
        ("b/link", 8, b"\x00\x02", "crosses a block"),
        ("b/link", 64, b"\x00", "zero byte"),
        ("b/long", 17, b"\xff", "points to"),
        ("b/other", 2, b"\x01", "empty, shared or filtered"),
        ("b/other", 2, b"\xff\xff", "points to"),
        ("b/other", 64, b"\x01", "filtered"),
        ("a/file", 0, b"\x09", "not where it belongs"),
        ("a", 0, b"\x09", "has chunks but is not a file"),
        ("b/link", 0, b"\x09", "has chunks but is not a file"),
        ("c/disk", 0, b"\x01", "not inside"),
        ("c/disk", 8, bytes(8), "is empty"),
        ("c/disk", 11, b"\x01", "not inside the layer image"),
        ("c/disk", 16, b"\x01", "behind each other"),
        ("c/disk", 16, b"\x20", "do not occur"),
        ("c/disk", 16, b"\x41", "do not occur"),
        ("c/disk", 18, b"\x01", "do not occur"),
    ],
)
def test_broken_inodes(broken: Broken, name: str, field: int, data: bytes, message: str) -> None:
    broken.read()
    broken.patch(broken.offset(name) + field, data)
    with pytest.raises(MalformedLayer, match=message):
        broken.read()


@pytest.mark.parametrize(
    ("number", "entry", "message"),
    [
        (0, 0, "not where it belongs"),
        (0, 8, "not where it belongs"),
        (0, 2**32 - 2, "not where it belongs"),
        (1, 0, "not where it belongs"),
        (1, 2**32 - 2, "not where it belongs"),
        (1, 2**32 - 1, None),
        (2, 2**32 - 1, "behind each other"),
        (2, None, "behind each other"),
        (11, 40, "behind each other"),
        (-1, None, "behind each other"),
    ],
)
def test_chunks_that_lie_elsewhere(broken: Broken, number: int, entry: int | None, message: str | None) -> None:
    """``None`` as an entry: that of the first chunk with data, so that two chunks were one."""
    table = broken.table("c/disk")
    hole, first, second = table.entries[:3]
    assert (hole, second) == (2**32 - 1, first + table.step)
    position = table.position + 4 * (number % len(table.entries))
    broken.patch(position, (first if entry is None else entry).to_bytes(4, "little"))
    if message is None:  # a first chunk that became a hole: no rule of the format says that it was none
        broken.read()
        return
    with pytest.raises(MalformedLayer, match=message):
        broken.read()


def test_the_copy_must_end_before_the_metadata(broken: Broken) -> None:
    table = broken.table("c/disk")
    behind = broken.layout.start // 512
    moved = [entry if entry == 2**32 - 1 else entry - table.entries[1] + behind - 1 for entry in table.entries]
    broken.patch(table.position, b"".join(entry.to_bytes(4, "little") for entry in moved))
    with pytest.raises(MalformedLayer, match="not where it belongs"):
        broken.read()


def test_chunks_need_the_flag_of_the_superblock(broken: Broken) -> None:
    broken.patch(1024 + 80, b"\0")
    with pytest.raises(MalformedLayer, match="superblock does not say so"):
        broken.read()


def test_a_realigned_image_has_no_chunks(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+b") as file:
        realign(write(tmp_path / "layer.erofs", *zoo()), file.fileno())
        superblock = Superblock.unpack(os.pread(file.fileno(), 128, 1024))
        assert not superblock.chunked
        os.pwrite(file.fileno(), replace(superblock, chunked=True).pack(), 1024)
    with pytest.raises(MalformedLayer, match="no sparse files"):
        LayerImage.open(tmp_path / "out")


def test_only_the_data_of_a_sparse_file_is_somewhere(broken: Broken) -> None:
    with LayerImage.open(broken.path) as image:
        found = {path: inode for path, inode in image.walk() if inode.is_file}
        assert list(image.extents(found[b"c", b"hole"])) == []
        extents = list(image.extents(found[b"c", b"disk"]))
        assert [(offset, length) for offset, _, length in extents] == [(512, 5120), (49_664, 512), (99_840, 160)]
        assert list(image.extents(found[b"a", b"file"])) == [(0, DATA_START, 7)]
        assert b"".join(image.read(found[b"c", b"disk"])) == broken.tar.content(broken.sparse)


def test_long_tables_are_read_in_windows(tmp_path: Path) -> None:
    """Runs over the border of two windows are one; windows without data are one step."""
    size = 64 << 20
    root, tar = directory(), TarStandIn()
    many = {at << 15: b"x" for at in range(300, 500)}
    data = {0: b"a", 8_388_000: b"b" * 2000, **many, size - 5: b"end"}
    put(root, "disk", tar.sparse_file(size, data))
    with LayerImage.open(write(tmp_path / "layer.erofs", root, tar)) as image:
        inode = image.tree().children[b"disk"]
        assert isinstance(inode, StoredInode)
        assert inode.chunks is not None
        assert inode.chunks.entries > 1 << 15
        assert b"".join(image.read(inode)) == tar.content(root.children[b"disk"])


def test_the_root_must_be_a_directory(broken: Broken) -> None:
    broken.patch(broken.offset("") + 5, b"\x81")
    with pytest.raises(MalformedLayer, match="root"):
        broken.read()


def entry(name: bytes, nid: int, *, kind: int = 2, offset: int = 12) -> bytes:
    return nid.to_bytes(8, "little") + offset.to_bytes(2, "little") + bytes([kind, 0]) + name


def test_a_directory_without_dots(broken: Broken) -> None:
    broken.patch(broken.directory("a"), entry(b"x", 2).ljust(512, b"\0"))
    with LayerImage.open(broken.path) as image:
        folders = dict(image.children(image.root()))
        with pytest.raises(MalformedLayer, match=r"has no entry \. or \.\."):
            list(image.children(folders[b"a"]))


@pytest.mark.parametrize("position", [0, 12], ids=[".", ".."])
def test_dots_that_lead_elsewhere(broken: Broken, position: int) -> None:
    broken.patch(broken.directory("a") + position, b"\x08")
    with pytest.raises(MalformedLayer, match="leads elsewhere"):
        broken.read()


def test_loops_of_directories(broken: Broken) -> None:
    """``a/file`` becomes a directory entry that leads back to the root."""
    broken.patch(broken.directory("a") + 24, entry(b"", 2, offset=39)[:12])
    with pytest.raises(MalformedLayer, match="two names"):
        broken.read()


def test_unsorted_directories(tmp_path: Path) -> None:
    root, tar = directory(), TarStandIn()
    for number in range(100):
        put(root, f"{number:04}", tar.file(b""))
    path = write(tmp_path / "layer.erofs", root, tar)
    placed = plan(root, 0).layout.inodes[0]
    with path.open("r+b") as file:
        file.seek(placed.address * 512)
        first, second = file.read(512), file.read(512)
        file.seek(placed.address * 512)
        file.write(second + first)
    with LayerImage.open(path) as image, pytest.raises(MalformedLayer, match="not sorted"):
        list(image.children(image.root()))


@pytest.mark.parametrize("entries", [8, 10])
def test_the_number_of_names_is_checked(broken: Broken, entries: int) -> None:
    broken.patch(2048 + 24, bytes([entries]))
    with pytest.raises(MalformedLayer, match="names"):
        broken.read()


def test_limits(broken: Broken) -> None:
    with pytest.raises(LimitExceeded, match="layer_entries"):
        LayerImage.open(broken.path, limits=replace(DEFAULT, layer_entries=5))
    with (
        LayerImage.open(broken.path, limits=replace(DEFAULT, path_depth=0)) as image,
        pytest.raises(LimitExceeded, match="path_depth"),
    ):
        list(image.walk())
    for limits, message in (
        (replace(DEFAULT, layer_uncompressed=99_999), "layer_uncompressed"),
        (replace(DEFAULT, sparse_chunks=1), "sparse_chunks"),
    ):
        with LayerImage.open(broken.path, limits=limits) as image, pytest.raises(LimitExceeded, match=message):
            list(image.walk())


def test_superblock_and_file_must_agree(broken: Broken) -> None:
    original = broken.path.read_bytes()
    broken.path.write_bytes(original[:-4096])
    with pytest.raises(MalformedLayer, match="its superblock says"):
        broken.read()
    broken.path.write_bytes(original)
    broken.patch(2048 + 12, b"\x08")
    with pytest.raises(MalformedLayer, match="disagree whether"):
        broken.read()
    broken.path.write_bytes(original)
    superblock = Superblock.unpack(original[1024:1152])
    broken.patch(1024, replace(superblock, meta_block=DATA_START // 512).pack())
    with pytest.raises(MalformedLayer, match="inside its tar"):
        broken.read()


def test_nids_count_slots() -> None:
    assert INODE.size == 2 * SLOT
