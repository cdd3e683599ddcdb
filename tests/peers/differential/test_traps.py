"""The traps of unpacking, one small image each, with what a container must see; and images that both sides refuse."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from testkit.images import make_image
from testkit.oci_layout import LayerSpec
from testkit.peers.judge import Judge
from testkit.peers.unpack import build, our_tree
from testkit.tars import CAPABILITY, CHARACTER, DEVICE, DIRECTORY, LINK, SYMLINK, Entry, tar

pytestmark = pytest.mark.peers


def xattr(name: bytes, value: bytes) -> Mapping[bytes, bytes]:
    return {b"SCHILY.xattr." + name: value}


BOTTOM = tar(
    Entry(b"tmp/", DIRECTORY, mode=0o1777, mtime=5),
    Entry(b"tmp/below", content=b"1"),
    Entry(b"dir/", DIRECTORY, mode=0o750, uid=3, mtime=6),
    Entry(b"dir/below", content=b"2"),
)

ALIKE: dict[str, Sequence[bytes]] = {
    "an implied parent keeps the mode below": [BOTTOM, tar(Entry(b"tmp/x"), Entry(b"dir/x"))],
    "an implied parent takes owner and xattrs": [
        tar(Entry(b"d/", DIRECTORY, uid=7, gid=8, mode=0o2711, pax=xattr(b"user.a", b"b"))),
        tar(Entry(b"d/deep/x")),
    ],
    "implied parents through two layers": [BOTTOM, tar(Entry(b"tmp/a/b")), tar(Entry(b"tmp/a/c"))],
    "an implied parent over a symlink below": [
        tar(Entry(b"real/", DIRECTORY, mode=0o700), Entry(b"link", SYMLINK, target=b"/real")),
        tar(Entry(b"link/x")),
    ],
    "an implied parent over a file below": [tar(Entry(b"d")), tar(Entry(b"d/x"))],
    "an implied parent over a whiteout below": [BOTTOM, tar(Entry(b".wh.tmp")), tar(Entry(b"tmp/x"))],
    "a parent is implied, then explicit": [BOTTOM, tar(Entry(b"tmp/x"), Entry(b"tmp/", DIRECTORY, mode=0o711))],
    "an implied parent that stays empty": [BOTTOM, tar(Entry(b"tmp/.wh..wh..opq"))],
    "a symlinked parent of the same layer": [
        tar(Entry(b"a/", DIRECTORY), Entry(b"b", SYMLINK, target=b"/a"), Entry(b"b/x"))
    ],
    "a symlinked parent stays inside": [
        tar(Entry(b"a/", DIRECTORY), Entry(b"a/up", SYMLINK, target=b"../../../.."), Entry(b"a/up/x"))
    ],
    "a whiteout": [BOTTOM, tar(Entry(b"tmp/.wh.below"))],
    "a whiteout of a directory": [BOTTOM, tar(Entry(b".wh.tmp"))],
    "a whiteout and what replaces it, above": [BOTTOM, tar(Entry(b".wh.tmp")), tar(Entry(b"tmp/", DIRECTORY))],
    "an opaque directory": [BOTTOM, tar(Entry(b"tmp/.wh..wh..opq"), Entry(b"tmp/new"))],
    "an opaque directory, marked last": [
        BOTTOM,
        tar(Entry(b"tmp/", DIRECTORY), Entry(b"tmp/new"), Entry(b"tmp/.wh..wh..opq")),
    ],
    "whiteouts of the bottom layer": [
        tar(Entry(b"a"), Entry(b".wh.a"), Entry(b"b/c"), Entry(b"b/.wh..wh..opq"), Entry(b".wh.none"))
    ],
    "one layer at the bottom and above": [tar(Entry(b"a"), Entry(b".wh.b"))] * 2,
    "a device 0:0 of the tar": [BOTTOM, tar(Entry(b"tmp/below", CHARACTER))],
    "devices with large numbers": [tar(Entry(b"d", DEVICE, major=259, minor=1048575))],
    "the last hard link decides": [
        tar(Entry(b"a", content=b"1"), Entry(b"b", LINK, target=b"a", mode=0o600, uid=9, mtime=4))
    ],
    "a hard link to a symlink": [tar(Entry(b"a", SYMLINK, target=b"nowhere"), Entry(b"b", LINK, target=b"a"))],
    "a file replaces a directory": [BOTTOM, tar(Entry(b"tmp")), tar(Entry(b"tmp/", DIRECTORY), Entry(b"tmp/x"))],
    "twice the same directory keeps its content": [
        tar(Entry(b"a/", DIRECTORY), Entry(b"a/x"), Entry(b"a/", DIRECTORY, mode=0o700, mtime=9))
    ],
    "an earlier entry's time for an implied directory": [
        tar(
            Entry(b"e/d", SYMLINK, target=b"/e"),
            Entry(b"e/d/d/", DIRECTORY, mtime=1),
            Entry(b"e/d/d/x/", DIRECTORY, mtime=2),
        ),
    ],
    "the root's own entry is ignored": [tar(Entry(b"./", DIRECTORY, mode=0o700, uid=5), Entry(b"a"))],
    "capabilities and setuid": [
        tar(
            Entry(b"ping", mode=0o755, pax=xattr(b"security.capability", CAPABILITY)),
            Entry(b"sudo", mode=0o4755),
        )
    ],
    "times before the epoch and with nanoseconds": [
        tar(
            Entry(b"a", pax={b"mtime": b"-1.5"}),
            Entry(b"b/", DIRECTORY, pax={b"mtime": b"1700000000.123456789"}),
        )
    ],
    "forty layers": [
        tar(Entry(b"d%d/f%d" % (n % 3, n)), *([Entry(b"d%d/.wh.f%d" % (n % 3, n - 3))] if n > 2 else []))
        for n in range(40)
    ],
}


@pytest.mark.parametrize("trap", ALIKE)
async def test_both_unpack_alike(judge: Judge, directory: Path, trap: str) -> None:
    verdict = await judge.compare(make_image(directory / "image", ALIKE[trap]))
    assert not verdict.differences, "\n".join(verdict.differences)
    assert not verdict.refused


REFUSED: dict[str, Sequence[bytes]] = {
    "a hard link into a lower layer": [BOTTOM, tar(Entry(b"x", LINK, target=b"tmp/below"))],
    "a whiteout of the same layer's file": [BOTTOM, tar(Entry(b"a"), Entry(b".wh.a"))],
    "a file as a parent": [tar(Entry(b"a"), Entry(b"a/b"))],
    "a file of a lower layer above an implied parent": [tar(Entry(b"a")), tar(Entry(b"a/b/c"))],
    "the same, removed again": [tar(Entry(b"a")), tar(Entry(b"a/b/c"), Entry(b"a"))],
    "a removed directory's time": [tar(Entry(b"a/", DIRECTORY), Entry(b"a/b/", DIRECTORY), Entry(b"a"))],
    "a whiteout that leaves its directory": [BOTTOM, tar(Entry(b"tmp/.wh..."))],
    "an unknown type": [tar(Entry(b"a", b"Z"))],
    "a wrong checksum": [b"garbage" * 512],
}


@pytest.mark.parametrize("trap", REFUSED)
async def test_both_refuse(judge: Judge, directory: Path, trap: str) -> None:
    verdict = await judge.compare(make_image(directory / "image", REFUSED[trap]))
    assert not verdict.differences, "\n".join(verdict.differences)
    assert verdict.refused


SPARSE_FORMATS: Sequence[Sequence[str]] = (
    ("--format=posix", "--sparse-version=0.0"),
    ("--format=posix", "--sparse-version=0.1"),
    ("--format=posix", "--sparse-version=1.0"),
)


def sparse_tar(directory: Path, options: Sequence[str]) -> bytes:
    """GNU tar's own sparse formats, of a file with data at its start, middle and end, and of an empty hole."""
    source = directory / "source"
    source.mkdir()
    with (source / "holes").open("wb") as file:
        for offset in (0, 300_000, 999_990):
            file.seek(offset)
            file.write(b"data at %d" % offset)
    with (source / "hole").open("wb") as file:
        file.truncate(70_000)
    fixed = ["--mtime=@1700000000", "--owner=0", "--group=0", "-cf", "-", "-C", str(source), "."]
    return subprocess.run(["tar", "--sparse", *options, *fixed], check=True, capture_output=True).stdout


@pytest.mark.parametrize("options", SPARSE_FORMATS, ids=lambda options: options[-1].strip("-"))
async def test_sparse_files(judge: Judge, directory: Path, options: Sequence[str]) -> None:
    verdict = await judge.compare(make_image(directory / "image", [sparse_tar(directory, options)]))
    assert not verdict.differences, "\n".join(verdict.differences)
    assert not verdict.refused


async def test_old_gnu_sparse_is_refused_by_both(judge: Judge, directory: Path) -> None:
    verdict = await judge.compare(make_image(directory / "image", [sparse_tar(directory, ["--format=gnu"])]))
    assert not verdict.differences, "\n".join(verdict.differences)
    assert verdict.refused


async def test_tmp_stays_1777(judge: Judge, directory: Path) -> None:
    """The one that breaks programs, looked at itself: not only equal to containerd's."""
    record = await build(judge.store, make_image(directory / "image", [BOTTOM, tar(Entry(b"tmp/x"))]))
    with our_tree(judge.store, record, directory / "tree") as tree:
        assert stat.S_IMODE((tree / "tmp").stat().st_mode) == 0o1777
        assert sorted(path.name for path in (tree / "tmp").iterdir()) == ["below", "x"]


async def test_bytes_behind_the_end_count(judge: Judge, directory: Path) -> None:
    layer = tar(Entry(b"a", content=b"x")) + bytes(5000) + b"trailing bytes"
    verdict = await judge.compare(make_image(directory / "image", [LayerSpec(layer, "none")]))
    assert not verdict.differences, "\n".join(verdict.differences)
    assert not verdict.refused
