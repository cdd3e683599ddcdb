"""What the rules do not say: spelling of names, counts, and what is remembered between entries."""

import tarfile
from io import BytesIO

import pytest

from imagecache.errors import LimitExceeded
from imagecache.layer.assemble import Assembler, assemble
from imagecache.layer.budget import Budget
from imagecache.layer.tar_entry import FILE, TarEntry
from imagecache.layer.tar_sources import ChunkSource
from imagecache.limits import DEFAULT
from testkit.tars import DIRECTORY, LINK, SYMLINK, Entry, at, grow, long_name, paths, random_image


def test_names_may_be_spelled_in_many_ways() -> None:
    tree = grow(
        Entry(b"a/b//", DIRECTORY, mtime=1),
        Entry(b"./a/c/.", DIRECTORY),
        Entry(b"a/x/../d"),
        Entry(b"//a/e/"),
        Entry(b"a//b/f"),
        Entry(b"a/./b/f2"),
    )
    assert paths(tree) == ["a", "a/b", "a/b/f", "a/b/f2", "a/c", "a/d", "a/e"]
    assert at(tree, "a/e").is_file


def test_a_raw_parent_over_the_path_limit() -> None:
    with pytest.raises(LimitExceeded, match="longer than 4096 bytes"):
        grow(long_name(b"./" * 2050 + b"d/f"), Entry(b"x"))


def test_counts() -> None:
    tree = grow(
        Entry(b"a/", DIRECTORY),
        Entry(b"a/f"),
        Entry(b"b/", DIRECTORY),
        Entry(b"b/c/", DIRECTORY),
        Entry(b"b/l", LINK, target=b"a/f"),
        Entry(b"m", LINK, target=b"/b/l"),
    )
    assert tree.entries == 6
    assert [at(tree, path).nlink for path in ("a", "b", "b/c", "a/f")] == [2, 3, 2, 3]
    assert tree.root.nlink == 4


def test_a_replaced_name_is_one_link_less() -> None:
    tree = grow(Entry(b"f"), Entry(b"l", LINK, target=b"f"), Entry(b"f", content=b"new"))
    assert (at(tree, "l").nlink, at(tree, "f").nlink, at(tree, "f").size) == (1, 1, 3)


def test_what_is_remembered_of_parents_is_forgotten_when_they_go() -> None:
    tree = grow(
        Entry(b"d/a"),
        Entry(b"d", SYMLINK, target=b"e"),
        Entry(b"d/b"),
        Entry(b"d/", DIRECTORY),
        Entry(b"d/c"),
        Entry(b"l", LINK, target=b"d/c"),
    )
    assert paths(tree) == ["d", "d/c", "e", "e/b", "l"]
    assert [(record.path, record.gone) for record in tree.implied] == [((b"d",), True), ((b"e",), False)]


def test_memory_for_parents_is_bounded() -> None:
    assembler = Assembler(bottom=False, limits=DEFAULT, budget=Budget(DEFAULT))
    for number in range((1 << 15) + 5):
        assembler.add(TarEntry(b"d%d/f" % number, FILE, 0o644, 0, 0, 0, 0, 0, 0))
    assert len(assembler.finish().implied) == (1 << 15) + 5


def test_hard_link_targets_may_be_spelled_in_many_ways() -> None:
    targets = (b"d/f", b"./d/f", b"/d/f", b"d//f", b"s/f", b"d/../d/f", b"d/./f", b"t/", b"t/.")
    links = [Entry(b"l%d" % number, LINK, target=target) for number, target in enumerate(targets)]
    tree = grow(Entry(b"d/f"), Entry(b"s", SYMLINK, target=b"d"), Entry(b"t", SYMLINK, target=b"d/f"), *links)
    assert at(tree, "d/f").nlink == len(targets) + 1


def test_implied_directories_come_parents_first() -> None:
    tree = grow(Entry(b"a/b/c/f"), Entry(b"a/b/", DIRECTORY), Entry(b"a/d/f"))
    assert [(record.path, record.overridden) for record in tree.implied] == [
        ((b"a",), False),
        ((b"a", b"b"), True),
        ((b"a", b"b", b"c"), False),
        ((b"a", b"d"), False),
    ]


@pytest.mark.parametrize("seed", range(40))
def test_chunks_do_not_matter(seed: int) -> None:
    """The same tar in other pieces gives the same tree, or the same error."""
    for data in random_image(seed):
        assert _outcome(data, 1 << 20) == _outcome(data, 100 + seed)


def _outcome(data: bytes, size: int) -> str:
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    try:
        return repr(assemble(ChunkSource(chunks), bottom=False, limits=DEFAULT).root)
    except Exception as error:  # noqa: BLE001 - whichever it is, it must be the same
        return repr(error)


def test_a_tar_of_pythons_own() -> None:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("päth/" + "n" * 200)
        info.size = 3
        archive.addfile(info, BytesIO(b"abc"))
    tree = assemble(ChunkSource([file.getvalue()]), bottom=False, limits=DEFAULT)
    inode = at(tree, "päth/" + "n" * 200)
    assert file.getvalue()[inode.data : inode.data + inode.size] == b"abc"
