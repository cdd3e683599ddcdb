"""Trees laid out."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace

import pytest

from imagecache.erofs.content import TarContent
from imagecache.erofs.format import FLAT_INLINE, FLAT_PLAIN
from imagecache.erofs.layout import Layout, PlacedInode, lay_out
from imagecache.erofs.writer import plan
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import DEFAULT, Limits
from imagecache.tree import Inode, directory
from testkit.trees import device, put, symlink, zoo


def laid_out(root: Inode, limits: Limits = DEFAULT) -> Layout:
    return lay_out(root, 9, TarContent(1 << 20, limits), limits)


def placed_of(layout: Layout, inode: Inode) -> PlacedInode:
    return next(placed for placed in layout.inodes if placed.inode is inode)


def test_the_root_is_first_and_no_number_is_zero() -> None:
    layout = laid_out(zoo()[0])
    assert layout.inodes[0].nid == 2
    assert [placed.number for placed in layout.inodes] == list(range(1, len(layout.inodes) + 1))
    assert len({placed.nid for placed in layout.inodes}) == len(layout.inodes)


def test_no_inode_crosses_a_block() -> None:
    for placed in laid_out(zoo()[0]).inodes:
        assert placed.offset // 512 == (placed.offset + 63) // 512


def test_children_of_one_directory_are_neighbours() -> None:
    root = directory()
    for path in ("b/y", "a/z", "b/x", "a/x", "c"):
        put(root, path, device(stat.S_IFIFO, 0, 0))
    names = {inode: name for folder in (root, *root.children.values()) for name, inode in folder.children.items()}
    assert [names[placed.inode] for placed in laid_out(root).inodes[1:]] == [b"a", b"b", b"c", b"x", b"z", b"x", b"y"]


def test_dots_are_sorted_among_the_names() -> None:
    root = directory()
    for name in (b"!", b"-", b".a", b"..", b"a")[::-1]:
        root.children[name + b"x"] = directory()
    names = laid_out(root).directories[0].names
    assert names == [b"!x", b"-x", b".", b"..", b"..x", b".ax", b"ax"]


def test_links_are_counted() -> None:
    root = directory()
    linked = device(stat.S_IFIFO, 0, 0)
    linked.nlink = 77
    for path in ("a", "d/b", "d/e/c"):
        put(root, path, linked)
    layout = laid_out(root)
    assert [placed.nlink for placed in layout.inodes] == [3, 3, 3, 2]
    assert layout.entries == 5


@pytest.mark.parametrize(
    ("length", "offset", "kind"),
    [
        (1, 128, FLAT_INLINE),
        (320, 128, FLAT_INLINE),
        (321, 512, FLAT_INLINE),
        (448, 512, FLAT_INLINE),
        (449, 128, FLAT_PLAIN),
    ],
)
def test_targets_lie_beside_their_inode_unless_that_crosses_a_block(length: int, offset: int, kind: int) -> None:
    root = directory()
    link = put(root, "link", symlink(b"t" * length))
    layout = laid_out(root)
    placed = placed_of(layout, link)
    assert (placed.offset, placed.layout, placed.size) == (offset, kind, length)
    assert (placed in layout.links) == (kind == FLAT_PLAIN)


def test_xattrs_count_for_the_room_of_a_target() -> None:
    root = directory()
    link = put(root, "link", symlink(b"t" * 400))
    link.xattrs = {b"trusted.x": b"v" * 60}
    assert placed_of(laid_out(root), link).layout == FLAT_PLAIN


def test_a_directory_size_ends_with_its_last_name() -> None:
    root = directory()
    for number in range(100):
        put(root, f"{number:04}", device(stat.S_IFIFO, 0, 0))
    layout = laid_out(root)
    assert layout.directories[0].starts == [0, 32, 64, 96]
    assert layout.inodes[0].size == 3 * 512 + 6 * 16


def test_files_without_content_have_no_address() -> None:
    root = directory()
    empty = put(root, "empty", Inode(mode=stat.S_IFREG, size=0, data=512))
    assert placed_of(laid_out(root), empty).address == 0


def test_equal_trees_have_equal_layouts() -> None:
    def shuffled(inode: Inode) -> None:
        inode.children = dict(reversed(inode.children.items()))
        for child in inode.children.values():
            shuffled(child)

    root, other = zoo()[0], zoo()[0]
    shuffled(other)
    one, two = (plan(tree, 1 << 20).layout for tree in (root, other))
    assert [(p.offset, p.address, p.nlink) for p in one.inodes] == [(p.offset, p.address, p.nlink) for p in two.inodes]


def hang(name: bytes, inode: Inode) -> Inode:
    root = directory()
    root.children[name] = inode
    return root


def loop() -> Inode:
    root = directory()
    root.children[b"again"] = root
    return root


def with_number(name: str, value: int) -> Inode:
    inode = device(stat.S_IFIFO, 0, 0)
    setattr(inode, name, value)
    return hang(b"x", inode)


@pytest.mark.parametrize(
    "tree",
    [
        lambda: symlink(b"not a directory"),
        loop,
        *(lambda name=name: hang(name, directory()) for name in (b"", b".", b"..", b"a/b", b"a\0")),
        lambda: hang(b"x", Inode(mode=0o644)),
        lambda: hang(b"x", symlink(b"")),
        lambda: hang(b"x", symlink(b"a\0b")),
        lambda: hang(b"x", Inode(mode=stat.S_IFREG, size=1, data=1 << 20)),
    ],
)
def test_trees_that_cannot_be(tree: Callable[[], Inode]) -> None:
    with pytest.raises(MalformedLayer):
        laid_out(tree())


@pytest.mark.parametrize(
    "tree",
    [
        lambda: hang(b"n" * 256, directory()),
        lambda: hang(b"x", symlink(b"t" * 4096)),
        lambda: hang(b"x", device(stat.S_IFCHR, 4096, 0)),
        lambda: with_number("uid", 2**32 - 1),
        lambda: with_number("gid", -1),
        lambda: with_number("mtime", -1),
        lambda: with_number("mtime", 2**63),
        lambda: with_number("mtime_nsec", 10**9),
        lambda: with_number("mode", stat.S_IFIFO | 1 << 16),
        lambda: with_number("size", -1),
    ],
)
def test_numbers_that_do_not_fit(tree: Callable[[], Inode]) -> None:
    with pytest.raises(LimitExceeded):
        laid_out(tree())


def test_too_many_names() -> None:
    root = directory()
    for number in range(4):
        put(root, f"{number}", directory())
    with pytest.raises(LimitExceeded, match="layer_entries, 3"):
        laid_out(root, replace(DEFAULT, layer_entries=3))


def test_more_blocks_than_can_be_addressed() -> None:
    root, limits = directory(), replace(DEFAULT, layer_uncompressed=2**50)
    with pytest.raises(LimitExceeded, match="EROFS can address"):
        lay_out(root, 9, TarContent(2**41, limits), limits)
