"""Whole layer images."""

from __future__ import annotations

import hashlib
import os
import uuid as uuids
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagecache.erofs import metadata_area
from imagecache.erofs.format import Superblock
from imagecache.erofs.layer_header import DATA_START, HEADER_OFFSET, LayerFlags, LayerHeader, unfinished
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.writer import pieces, plan, tar_in, verify_image, write_image
from imagecache.errors import LimitExceeded, MalformedLayer, StoreCorrupt
from imagecache.limits import DEFAULT, GIB, KIB
from imagecache.tree import Inode, directory
from testkit.trees import TarStandIn, header_of, put, write_layer, zoo

ZOO = "b0590a5743d2fc2bc4fc5fafc7218cc0d6a94fc64805d5dc9016ad90c752fddf"
WITHOUT_SPARSE = "151b122abab8dc6091b7041d125d24f6f4ee28dd12b1d849d28b3104c12624df"


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    with (tmp_path / "layer.erofs").open("w+b") as file:
        yield file.fileno()


def whole(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def test_the_bytes_of_an_image_are_fixed(fd: int) -> None:
    """If this fails the format changed: every stored layer image would differ from a new one."""
    root, tar = zoo()
    write_layer(fd, root, tar)
    assert hashlib.sha256(whole(fd)).hexdigest() == ZOO
    for name in (b"sparse", b"hole"):
        del root.children[b"files"].children[name]
    write_layer(fd, root, tar)
    assert hashlib.sha256(whole(fd)).hexdigest() == WITHOUT_SPARSE


def test_what_the_file_held_before_does_not_matter(fd: int) -> None:
    root, tar = zoo()
    write_layer(fd, root, tar)
    first = whole(fd)
    os.pwrite(fd, b"\xff" * len(first), 0)
    os.pwrite(fd, b"\xff" * 10_000, len(first))
    os.pwrite(fd, tar.read(0, tar.size), DATA_START)
    write_image(fd, root, header_of(root, tar))
    assert whole(fd) == first


def test_the_tar_stays_as_it_is(fd: int) -> None:
    root, tar = zoo()
    write_layer(fd, root, tar)
    assert tar_in(fd)(0, tar.size) == tar.read(0, tar.size)


def test_the_tar_may_come_from_elsewhere(fd: int) -> None:
    root, tar = zoo()
    header = header_of(root, tar)
    os.ftruncate(fd, DATA_START + tar.size)
    assert write_image(fd, root, header, read_tar=tar.read) == os.fstat(fd).st_size
    verified = whole(fd)[DATA_START + tar.size :]
    write_layer(fd, root, tar)
    assert verified == whole(fd)[DATA_START + tar.size :]


def test_pieces_are_everything_outside_the_tar(fd: int) -> None:
    root, tar = zoo()
    header = write_layer(fd, root, tar)
    image = bytearray(os.fstat(fd).st_size)
    position = 0
    for start, data in pieces(plan(root, tar.size), header, tar.read):
        assert start >= position
        image[start : start + len(data)] = data
        position = start + len(data)
    image[DATA_START : DATA_START + tar.size] = tar.read(0, tar.size)
    assert image == whole(fd)


def test_many_inodes_come_in_several_pieces() -> None:
    root, tar = directory(), TarStandIn()
    for number in range(20_000):
        put(root, f"{number}", tar.file(b""))
    layout = plan(root, 0).layout
    parts = [len(part) for part in metadata_area.metadata(layout)]
    assert len(parts) == 2
    assert sum(parts) == layout.total - layout.start


def test_the_header_is_written_last(fd: int) -> None:
    root, tar = zoo()
    write_layer(fd, root, tar)

    def fail(offset: int, length: int) -> bytes:
        raise OSError(offset, length)

    with pytest.raises(OSError, match="Errno"):
        write_image(fd, root, header_of(root, tar), read_tar=fail)
    assert whole(fd)[:DATA_START] == unfinished(tar.size)
    with pytest.raises(MalformedLayer, match="no IMGCACHE header"):
        LayerImage.from_fd(fd)


def test_the_head_says_where_the_tar_ends_before_anything_follows_it(fd: int) -> None:
    root, tar = zoo()
    header = header_of(root, tar)
    os.pwrite(fd, tar.read(0, tar.size) + b"what the build had behind it", DATA_START)
    seen = list[tuple[bytes, bytes]]()

    def look(offset: int, length: int) -> bytes:
        seen.append((whole(fd)[:DATA_START], whole(fd)[DATA_START + tar.size :]))
        return tar.read(offset, length)

    write_image(fd, root, header, read_tar=look)

    assert {head for head, _ in seen} == {unfinished(tar.size)}
    assert not any(seen[0][1])
    assert LayerImage.from_fd(fd).header == header


def test_header_and_superblock_agree_with_the_file(fd: int) -> None:
    root, tar = zoo()
    header = write_layer(fd, root, tar)
    data = whole(fd)
    superblock = Superblock.unpack(data[1024:1152])
    assert superblock.blocks * 512 == len(data)
    assert len(data) % 4096 == 0
    assert LayerHeader.unpack(data[HEADER_OFFSET : HEADER_OFFSET + 64]) == header
    assert superblock.uuid == metadata_area.uuid(header)


def test_uuids_differ_with_content_and_with_rules() -> None:
    header = header_of(*zoo())
    others = [replace(header, flags=LayerFlags.BOTTOM), replace(header, tar_size=0)]
    found = [uuids.UUID(bytes=metadata_area.uuid(one)) for one in (header, *others)]
    assert len(set(found)) == 3
    assert {(one.version, one.variant) for one in found} == {(8, uuids.RFC_4122)}


def test_a_header_of_another_tree_is_a_mistake(fd: int) -> None:
    root, tar = zoo()
    header = header_of(root, tar)
    with pytest.raises(ValueError, match="does not hold the tar"):
        write_image(fd, root, header)
    with pytest.raises(ValueError, match="entries"):
        write_image(fd, root, replace(header, entries=1))


def test_limits_are_the_callers(fd: int) -> None:
    root, tar = zoo()
    with pytest.raises(LimitExceeded):
        write_image(fd, root, header_of(root, tar), limits=replace(DEFAULT, layer_entries=5))


def test_a_short_tar_is_malformed(fd: int) -> None:
    with pytest.raises(MalformedLayer, match="inside its tar"):
        tar_in(fd)(0, 1)


def test_a_hole_is_in_no_layer_image(fd: int) -> None:
    root, tar = directory(), TarStandIn()
    put(root, "hole", tar.sparse_file(256 * GIB, {}))
    put(root, "disk", tar.sparse_file(8 * GIB, {0: b"start" * 1000, 5 * GIB + 77: b"middle", 8 * GIB - 1: b"e"}))
    header = write_layer(fd, root, tar)
    assert os.fstat(fd).st_size < 700 * KIB
    verify_image(fd, root, header)
    with_flag = Superblock.unpack(os.pread(fd, 128, 1024))
    assert with_flag.chunked
    root.children.clear()
    write_layer(fd, root, tar)
    assert not Superblock.unpack(os.pread(fd, 128, 1024)).chunked


def test_holes_count_for_the_size_that_an_image_may_have(fd: int) -> None:
    """Prepull mode and second handlers unpack the layer, and write them out."""
    root, tar = directory(), TarStandIn()
    put(root, "hole", tar.sparse_file(8 * GIB, {}))
    asked: list[int] = []
    size = write_image(fd, root, header_of(root, tar), read_tar=tar.read, room=asked.append)

    assert asked == [size + 8 * GIB]


def test_every_byte_of_a_table_is_verified(fd: int) -> None:
    root, tar = directory(), TarStandIn()
    put(root, "disk", tar.sparse_file(90_000, {0: b"start", 40_000: b"m" * 700, 89_999: b"e"})).xattrs = {
        b"user.x": b"y"
    }
    header = write_layer(fd, root, tar)
    layer = plan(root, tar.size)
    placed = layer.layout.inodes[1]
    assert placed.copy is not None
    inode = layer.layout.start + placed.offset
    table = inode + 64 + len(placed.xattrs)
    for position in [inode, inode + 16, *range(table, table + 4 * placed.copy.chunks.entries)]:
        original = os.pread(fd, 1, position)
        os.pwrite(fd, bytes([original[0] ^ 1]), position)
        with pytest.raises(StoreCorrupt, match=f"at byte {position} "):
            verify_image(fd, root, header)
        os.pwrite(fd, original, position)
    verify_image(fd, root, header)


def image(fd: int) -> tuple[Inode, LayerHeader]:
    root, tar = zoo()
    return root, write_layer(fd, root, tar)


def test_an_image_verifies(fd: int) -> None:
    verify_image(fd, *image(fd))


def test_every_byte_outside_the_tar_is_verified(fd: int) -> None:
    root, header = image(fd)
    size = os.fstat(fd).st_size
    behind = DATA_START + header.tar_size
    for position in [0, 1023, 1024, 2048, 4095, *range(behind, size, 20_011), size - 1]:
        original = os.pread(fd, 1, position)
        os.pwrite(fd, bytes([original[0] ^ 1]), position)
        with pytest.raises(StoreCorrupt, match=f"at byte {position} "):
            verify_image(fd, root, header)
        os.pwrite(fd, original, position)
    verify_image(fd, root, header)


def test_size_and_tree_are_verified(fd: int) -> None:
    root, header = image(fd)
    root.children[b"empty"].uid = 5
    with pytest.raises(StoreCorrupt, match="differs at byte"):
        verify_image(fd, root, header)
    root.children[b"empty"].uid = 0
    os.ftruncate(fd, os.fstat(fd).st_size + 1)
    with pytest.raises(StoreCorrupt, match="bytes"):
        verify_image(fd, root, header)
