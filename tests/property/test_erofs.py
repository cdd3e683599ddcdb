"""Any tree is read back as it was written, from both block sizes; equal trees give equal bytes."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from imagecache.erofs import dirent, xattr
from imagecache.erofs.dirent import Entry
from imagecache.erofs.format import decode_device, encode_device
from imagecache.erofs.reader import LayerImage
from imagecache.erofs.realign import realign
from imagecache.erofs.writer import verify_image
from imagecache.tree import Inode, directory
from testkit.trees import TarStandIn, count_links, describe, header_of, random_tree, symlink, write_layer

NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
)
PREFIXES = st.sampled_from([b"user.", b"trusted.", b"security.", b"trusted.overlay."])
XATTR_NAMES = st.one_of(
    st.sampled_from([b"system.posix_acl_access", b"system.posix_acl_default"]),
    st.builds(bytes.__add__, PREFIXES, st.binary(min_size=1, max_size=240).filter(lambda name: b"\0" not in name)),
)
XATTRS = st.dictionaries(XATTR_NAMES, st.binary(max_size=700), max_size=6)
SEEDS = st.integers(0, 2**64)


@given(XATTRS)
def test_xattrs(xattrs: dict[bytes, bytes]) -> None:
    body = xattr.encode(xattrs)
    assert xattr.size(xattr.count(len(body))) == len(body)
    assert (xattr.decode(body) if body else {}) == xattrs


@given(st.integers(0, 4095), st.integers(0, 2**20 - 1))
def test_device_numbers(major: int, minor: int) -> None:
    assert decode_device(encode_device(major, minor)) == (major, minor)
    assert encode_device(major, minor) == os.makedev(major, minor)


@given(st.sets(NAMES, min_size=1, max_size=60), st.sampled_from([512, 4096]))
def test_directory_blocks(names: set[bytes], block: int) -> None:
    entries = [Entry(name, number, number % 7 + 1) for number, name in enumerate(sorted(names))]
    bounds = [*dirent.split([entry.name for entry in entries], block), len(entries)]
    blocks = [dirent.pack(entries[start:end]) for start, end in itertools.pairwise(bounds)]
    assert max(map(len, blocks)) <= block
    assert [entry for data in blocks for entry in dirent.unpack(data.ljust(block, b"\0"))] == entries


def written(folder: str, name: str, root: Inode, tar: TarStandIn) -> Path:
    path = Path(folder, name)
    with path.open("w+b") as file:
        write_layer(file.fileno(), root, tar)
    return path


def assert_reads_back(path: Path, root: Inode, tar: TarStandIn) -> None:
    with LayerImage.open(path) as image:
        assert describe(image.tree(), lambda inode: b"".join(image.read(inode))) == describe(root, tar.content)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(0, 150))
def test_trees(seed: int, entries: int) -> None:
    root, tar = random_tree(random.Random(seed), entries)
    again, tar_again = random_tree(random.Random(seed), entries)
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, "one", root, tar)
        assert_reads_back(path, root, tar)
        assert written(folder, "two", again, tar_again).read_bytes() == path.read_bytes()
        with path.open("rb") as file:
            verify_image(file.fileno(), root, header_of(root, tar))
        with Path(folder, "realigned").open("w+b") as file:
            realign(path, file.fileno())
        assert_reads_back(Path(folder, "realigned"), root, tar)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, st.tuples(st.binary(min_size=1, max_size=4095), XATTRS), max_size=40))
def test_symlinks_with_attributes(links: dict[bytes, tuple[bytes, dict[bytes, bytes]]]) -> None:
    """The trees where content, attributes and inodes share blocks in most ways."""
    root, tar = directory(), TarStandIn()
    for name, (target, xattrs) in links.items():
        root.children[name] = symlink(target.replace(b"\0", b"-"))
        root.children[name].xattrs = xattrs
    count_links(root)
    with tempfile.TemporaryDirectory() as folder:
        assert_reads_back(written(folder, "image", root, tar), root, tar)
