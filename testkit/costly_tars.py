"""Layers of a few kilobytes that cost much more than they are, one id each: memory, work, or both.

Each makes what takes the more of it the more members it has. containerd unpacks most of them, given time; a bound of
``limits`` refuses each before it has taken much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from testkit.tars import DIRECTORY, LINK, SYMLINK, Entry, pax_header

_DEEP = b"/".join([b"a"] * 500)


@dataclass(frozen=True, slots=True)
class Costly:
    """``members(n)`` makes n of what costs; ``bound`` is the setting of ``limits`` that refuses many of them."""

    members: Callable[[int], Iterator[Entry | bytes]]
    count: int
    """Members that the bound refuses. It takes a thousandth of them."""
    bound: str
    bottom: bool = False


def _named(path: bytes, kind: bytes = b"0") -> Entry:
    return Entry(b"x", kind, pax={b"path": path})


def _xattrs(count: int) -> Iterator[Entry | bytes]:
    value = bytes(30_000)
    for number in range(count):
        yield Entry(b"f%d" % number, pax={b"SCHILY.xattr.user.a": value, b"SCHILY.xattr.user.b": value})


def _dropped_xattrs(count: int) -> Iterator[Entry | bytes]:
    value = bytes(500_000)
    for number in range(count):
        yield Entry(b"d%d" % number, DIRECTORY, pax={b"SCHILY.xattr.trusted.a": value})


def _implied(count: int) -> Iterator[Entry | bytes]:
    for number in range(count):
        yield _named(b"%d" % number + b"/a" * 500)


def _spellings(count: int) -> Iterator[Entry | bytes]:
    for number in range(count):
        yield _named(b"./" * (number % 1000) + b"/" * (number // 1000) + _DEEP + b"/f")


def _up_and_down(count: int) -> Iterator[Entry | bytes]:
    for number in range(count):
        yield _named(b"a/../" * 800 + b"%d/f" % number)


def _pieces(count: int) -> Iterator[Entry | bytes]:
    pieces = 9500
    records = {
        b"GNU.sparse.major": b"0",
        b"GNU.sparse.minor": b"1",
        b"GNU.sparse.size": b"%d" % (2 * pieces),
        b"GNU.sparse.numblocks": b"%d" % pieces,
        b"GNU.sparse.map": b",".join(b"%d,1" % (2 * piece) for piece in range(pieces)),
    }
    for number in range(count):
        yield Entry(b"s%d" % number, content=bytes(pieces), pax=records)


def _records(count: int) -> Iterator[Entry | bytes]:
    header = pax_header([(b"a", b"")] * 200_000)
    for _ in range(count):
        yield header
    yield Entry(b"f")


def _hops(count: int) -> Iterator[Entry | bytes]:
    for number in range(35):
        yield Entry(b"l%d" % number, SYMLINK, target=b"l%d" % (number + 1))
    yield Entry(b"l35", DIRECTORY)
    for number in range(count):
        yield _named(b"l0/" + b"./" * (number % 60) + b"/" * (number // 60) + b"f")


def _reshaped(count: int) -> Iterator[Entry | bytes]:
    for _ in range(count):
        yield Entry(b"t", SYMLINK, target=b"x")
        yield _named(_DEEP + b"/f")


def _many_xattrs(count: int) -> Iterator[Entry | bytes]:
    yield Entry(b"d", DIRECTORY, pax={b"SCHILY.xattr.user.%d" % number: b"" for number in range(4500)})
    for _ in range(count):
        yield Entry(b"d", DIRECTORY, pax={b"SCHILY.xattr.user.x": b""})


def _deep_links(count: int) -> Iterator[Entry | bytes]:
    yield _named(_DEEP + b"/f")
    for number in range(count):
        yield Entry(b"l%d" % number, LINK, pax={b"linkpath": b"/" * (1 + number % 900) + _DEEP + b"/f"})


def _long_parents(count: int) -> Iterator[Entry | bytes]:
    for number in range(count):
        yield _named(b"/" * 3900 + b"%d/f" % number)


def _opaque(count: int) -> Iterator[Entry | bytes]:
    parts = _DEEP.split(b"/")
    yield Entry(b"s", SYMLINK, pax={b"linkpath": b"/" + _DEEP})
    for depth in range(1, len(parts) + 1):
        yield _named(b"/".join(parts[:depth]), DIRECTORY)
    for number in range(count):
        yield Entry(b"s/%d" % number)
    for depth in range(1, len(parts) + 1):
        yield _named(b"/".join(parts[:depth]) + b"/.wh..wh..opq")


COSTLY = {
    "xattrs": Costly(_xattrs, 1200, "tree_bytes"),
    "xattrs that are dropped": Costly(_dropped_xattrs, 150, "tree_bytes"),
    "implied directories": Costly(_implied, 150, "tree_bytes"),
    "many spellings of one directory": Costly(_spellings, 4000, "tree_steps"),
    "up and down": Costly(_up_and_down, 1500, "tree_steps"),
    "pieces of sparse files": Costly(_pieces, 80, "tree_bytes"),
    "records of extended headers": Costly(_records, 8, "tree_steps"),
    "symlinks to symlinks": Costly(_hops, 24_000, "tree_steps"),
    "a tree that is reshaped": Costly(_reshaped, 3000, "tree_steps"),
    "xattrs of one directory": Costly(_many_xattrs, 600, "tree_steps"),
    "links deep down": Costly(_deep_links, 3000, "tree_steps"),
    "long names of parents": Costly(_long_parents, 2500, "tree_steps"),
    "opaque markers on every level": Costly(_opaque, 6000, "tree_steps", bottom=True),
}
