"""Attacks on programs that unpack layers, one id each: those that must be refused, and those that must be contained.

containerd refuses the first kind too (or a bound of ``limits`` does). It unpacks the second kind inside the layer's
root, and so must we: the table has the resulting paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from imagecache.errors import ContentError, LimitExceeded, MalformedLayer, UnsafeLayer
from imagecache.limits import DEFAULT, Limits
from testkit.tars import (
    CHARACTER,
    DIRECTORY,
    END,
    FIFO,
    LINK,
    SYMLINK,
    Entry,
    long_name,
    padded,
    pax_header,
    pax_record,
    tar,
)

_SMALL = replace(
    DEFAULT,
    layer_entries=3,
    path_depth=8,
    path_length=300,
    tar_header_records=2048,
    sparse_segments=4,
    layer_uncompressed=1 << 20,
    xattrs_size=4096,
    xattr_value=3000,
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A tar, the error it must cause, and how it is read."""

    data: bytes
    error: type[ContentError]
    bottom: bool = False
    limits: Limits = DEFAULT


@dataclass(frozen=True, slots=True)
class Contained:
    """A tar, and every path of the resulting tree."""

    data: bytes
    paths: Sequence[str]


def _xattr(name: bytes, value: bytes) -> dict[bytes, bytes]:
    return {b"SCHILY.xattr." + name: value}


def _sparse(size: int, numbers: Sequence[int], content: bytes = b"", **more: bytes) -> bytes:
    records = {
        b"GNU.sparse.major": b"0",
        b"GNU.sparse.minor": b"1",
        b"GNU.sparse.name": more.get("name", b"sparse"),
        b"GNU.sparse.size": b"%d" % size,
        b"GNU.sparse.numblocks": more.get("count", b"%d" % (len(numbers) // 2)),
        b"GNU.sparse.map": b",".join(b"%d" % number for number in numbers),
    }
    return Entry(b"x", more.get("type", b"0"), content, pax=records).pack()


def _sparse_1_0(text: bytes, content: bytes = b"") -> bytes:
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"4096"}
    return Entry(b"x", content=padded(text) + content, pax=records).pack()


def _links(count: int) -> list[Entry]:
    """A chain of symlinks, each to the next."""
    return [Entry(b"l%d" % index, SYMLINK, target=b"l%d" % (index + 1)) for index in range(count)]


_FILE = Entry(b"f", content=b"data")
_WHOLE = _FILE.pack()

MALFORMED = {
    "header-is-noise": b"\xa5" * 512 + END,
    "header-cut": _WHOLE[:300],
    "header-wrong-checksum": tar(replace(_FILE, checksum=b"000000\0 ")),
    "header-checksum-no-number": tar(replace(_FILE, checksum=b"zzzzzz\0 ")),
    "header-high-bytes-wrong-checksum": tar(replace(_FILE, name=b"\xff\xfe", checksum=b"000000\0 ")),
    "number-not-octal": tar(replace(_FILE, fields={100: b"0o644\0\0\0"})),
    "number-underscores": tar(replace(_FILE, fields={100: b"0_644\0\0\0"})),
    "number-base256-over-64-bits": tar(replace(_FILE, fields={136: b"\x80" + b"\xff" * 11})),
    "star-times-no-numbers": tar(replace(_FILE, fields={476: b"zz", 508: b"tar\0"})),
    "size-negative": tar(replace(_FILE, size=-1)),
    "size-negative-by-pax": tar(replace(_FILE, pax={b"size": b"-512"})),
    "size-beyond-end": tar(replace(_FILE, size=(1 << 62) - 1)),
    "content-cut": _WHOLE[:514],
    "zero-block-then-header": tar(_WHOLE, bytes(512), _WHOLE),
    "zero-block-then-piece": tar(_WHOLE, bytes(512), end=bytes(100)),
    "pax-cut": pax_header({b"path": b"x"})[:520],
    "pax-without-length": tar(Entry(b"p", b"x", b"path=x\n"), _FILE),
    "pax-length-too-large": tar(Entry(b"p", b"x", b"999 path=x\n"), _FILE),
    "pax-length-zero": tar(Entry(b"p", b"x", b"0 path=x\n"), _FILE),
    "pax-length-huge-number": tar(Entry(b"p", b"x", b"9" * 500 + b" path=x\n"), _FILE),
    "pax-length-inside-itself": tar(Entry(b"p", b"x", b"0000000005 a=b\n"), _FILE),
    "pax-without-newline": tar(Entry(b"p", b"x", b"8 path=x"), _FILE),
    "pax-without-equals": tar(Entry(b"p", b"x", b"8 pathx\n"), _FILE),
    "pax-without-key": tar(Entry(b"p", b"x", pax_record(b"", b"v")), _FILE),
    "pax-nul-in-key": tar(replace(_FILE, pax={b"k\0": b"v"})),
    "pax-nul-in-path": tar(replace(_FILE, pax={b"path": b"etc/passwd\0.png"})),
    "pax-nul-in-link": tar(Entry(b"l", SYMLINK, pax={b"linkpath": b"a\0b"})),
    "pax-uid-no-number": tar(replace(_FILE, pax={b"uid": b"root"})),
    "pax-uid-over-64-bits": tar(replace(_FILE, pax={b"uid": b"9223372036854775808"})),
    "pax-time-no-number": tar(replace(_FILE, pax={b"mtime": b"1.2.3"})),
    "pax-access-time-no-number": tar(replace(_FILE, pax={b"atime": b"now"})),
    "pax-global-broken": tar(Entry(b"g", b"g", b"nonsense"), _FILE),
    "sparse-old-gnu": tar(Entry(b"s", b"S")),
    "sparse-overlap": tar(_sparse(10, [0, 4, 3, 4], b"12345678")),
    "sparse-backwards": tar(_sparse(10, [5, 1, 0, 1], b"12")),
    "sparse-past-the-end": tar(_sparse(10, [8, 4], b"1234")),
    "sparse-negative": tar(_sparse(10, [-4, 4], b"1234")),
    "sparse-negative-length": tar(_sparse(10, [4, -4])),
    "sparse-overflow": tar(_sparse(10, [(1 << 63) - 1, (1 << 63) - 1])),
    "sparse-negative-size": tar(_sparse(-1, [])),
    "sparse-missing-data": tar(_sparse(10, [0, 4], b"12")),
    "sparse-unused-data": tar(_sparse(10, [0, 4], b"123456")),
    "sparse-wrong-count": tar(_sparse(10, [0, 4], b"1234", count=b"2")),
    "sparse-no-count": tar(_sparse(10, [0, 4], b"1234", count=b"")),
    "sparse-nul-in-name": tar(_sparse(4, [0, 4], b"1234", name=b"etc/passwd\0.png")),
    "sparse-directory": tar(_sparse(4, [], type=DIRECTORY)),
    "sparse-map-no-number": tar(_sparse_1_0(b"x\n")),
    "sparse-map-negative": tar(_sparse_1_0(b"-1\n")),
    "sparse-map-cut": tar(_sparse_1_0(b"2\n0\n4\n")),
    "sparse-map-over-the-end": tar(_sparse_1_0(b"2\n0\n4\n"), end=b"")[:-512],
    "sparse-map-out-of-order": tar(Entry(b"p", b"x", pax_record(b"GNU.sparse.numbytes", b"4")), _FILE),
    "sparse-map-comma": tar(Entry(b"p", b"x", pax_record(b"GNU.sparse.offset", b"4,4")), _FILE),
}

UNSAFE = {
    "type-unknown": tar(Entry(b"v", b"V")),
    "link-to-nothing": tar(Entry(b"l", LINK, target=b"etc/shadow")),
    "link-to-itself": tar(_FILE, Entry(b"f", LINK, target=b"f")),
    "link-to-empty-name": tar(Entry(b"l", LINK)),
    "link-to-root": tar(Entry(b"l", LINK, target=b"/")),
    "link-to-directory": tar(Entry(b"d", DIRECTORY), Entry(b"l", LINK, target=b"d")),
    "link-above-root": tar(Entry(b"l", LINK, target=b"../..")),
    "link-through-file": tar(_FILE, Entry(b"l", LINK, target=b"f/x")),
    "link-through-absolute-symlink": tar(Entry(b"s", SYMLINK, target=b"/etc"), Entry(b"l", LINK, target=b"s/shadow")),
    "parent-is-file": tar(_FILE, Entry(b"f/x")),
    "parent-is-device": tar(Entry(b"c", CHARACTER, major=1, minor=3), Entry(b"c/x")),
    "parent-is-whiteout": tar(Entry(b".wh.x"), Entry(b"x/y")),
    "parent-is-symlink-to-file": tar(_FILE, Entry(b"s", SYMLINK, target=b"f"), Entry(b"s/x")),
    "grandparent-is-file": tar(_FILE, Entry(b"s", SYMLINK, target=b"f/d"), Entry(b"s/x")),
    "grandparent-is-file-through-symlink": tar(
        _FILE, Entry(b"t", SYMLINK, target=b"f"), Entry(b"s", SYMLINK, target=b"t/d"), Entry(b"s/d/x")
    ),
    "whiteout-of-its-directory": tar(Entry(b"d/.wh..")),
    "whiteout-of-its-parent": tar(Entry(b"d/.wh...")),
    "whiteout-of-nothing": tar(Entry(b"d/.wh.")),
    "whiteout-of-its-own-layer": tar(_FILE, Entry(b".wh.f")),
    "whiteout-twice": tar(Entry(b".wh.f"), Entry(b".wh.f")),
    "symlink-without-target": tar(Entry(b"l", SYMLINK)),
    "device-out-of-range": tar(Entry(b"c", CHARACTER, fields={329: b"\x80\0\0\x01\0\0\0\0"})),
    "device-negative": tar(Entry(b"c", CHARACTER, fields={337: b"\xff" * 8})),
    "fifo-out-of-range": tar(Entry(b"p", FIFO, fields={329: b"\xff" * 8})),
    "xattr-empty-name": tar(replace(_FILE, pax=_xattr(b"", b"v"))),
    "xattr-only-namespace": tar(replace(_FILE, pax=_xattr(b"user.", b"v"))),
    "xattr-long-name": tar(replace(_FILE, pax=_xattr(b"user." + b"n" * 251, b"v"))),
    "capability-too-short": tar(replace(_FILE, pax=_xattr(b"security.capability", b"\0\0"))),
    "capability-wrong-size": tar(replace(_FILE, pax=_xattr(b"security.capability", b"\1\0\0\2" + bytes(20)))),
    "capability-unknown-revision": tar(replace(_FILE, pax=_xattr(b"security.capability", b"\1\0\0\1" + bytes(8)))),
    "directory-replaced-by-dangling-symlink": tar(Entry(b"d", DIRECTORY), Entry(b"d", SYMLINK, target=b"gone")),
}

UNBOUNDED = {
    "entries": tar(*(Entry(b"f%d" % index) for index in range(4))),
    "name-too-long": tar(long_name(b"n" * 256), _FILE),
    "parent-name-too-long": tar(long_name(b"n" * 256 + b"/f"), _FILE),
    "whiteout-name-too-long": tar(long_name(b".wh." + b"n" * 256), _FILE),
    "path-too-deep": tar(Entry(b"a/" * 9 + b"f")),
    "path-too-long": tar(long_name(b"/".join([b"n" * 100] * 4)), _FILE),
    "path-too-long-resolved": tar(
        long_name(b"/".join([b"n" * 145] * 2), b"K"),
        Entry(b"s", SYMLINK),
        Entry(b"s/" + b"m" * 20 + b"/f"),
    ),
    "link-target-too-long": tar(long_name(b"/".join([b"n" * 100] * 4), b"K"), Entry(b"l", LINK)),
    "pax-header-too-long": tar(Entry(b"p", b"x", pax_record(b"comment", b"c" * 3000)), _FILE),
    "long-name-too-long": tar(long_name(b"a/" * 2000), _FILE),
    "sparse-bomb": tar(_sparse(1 << 40, [])),
    "sparse-pieces": tar(_sparse(100, [0, 1, 2, 1, 4, 1, 6, 1, 8, 1], b"12345")),
    "sparse-map-too-long": tar(_sparse_1_0(b"0" * 3000 + b"\n")),
    "sparse-map-pieces": tar(_sparse_1_0(b"%d\n" % (1 << 40))),
    "xattr-value": tar(replace(_FILE, pax=_xattr(b"user.x", bytes(1900)) | {b"SCHILY.xattr.user.y": b""}), end=b""),
    "symlink-loop": tar(Entry(b"s", SYMLINK, target=b"s"), Entry(b"s/f")),
}


def _refused() -> dict[str, Refused]:
    table = {name: Refused(data, MalformedLayer) for name, data in MALFORMED.items()}
    table |= {name: Refused(data, UnsafeLayer) for name, data in UNSAFE.items()}
    table |= {name: Refused(data, LimitExceeded, limits=_SMALL) for name, data in UNBOUNDED.items()}
    table["xattr-value"] = replace(table["xattr-value"], limits=replace(_SMALL, xattr_value=1000))
    table["xattrs-together"] = replace(table["xattr-value"], limits=replace(_SMALL, xattrs_size=1000))
    table["symlink-chain"] = Refused(tar(*_links(256), Entry(b"l0/f")), LimitExceeded)
    table["symlink-chain-in-the-middle"] = Refused(
        tar(*_links(60), Entry(b"s", SYMLINK, target=b"l0/x"), Entry(b"s/d/f")), LimitExceeded
    )
    table["symlink-target-too-long"] = Refused(tar(Entry(b"l", SYMLINK, pax={b"linkpath": b"t" * 4096})), LimitExceeded)
    table["bottom-directory-removed"] = Refused(tar(Entry(b"d/", DIRECTORY), Entry(b".wh.d")), UnsafeLayer, bottom=True)
    return table


REFUSED = _refused()

CONTAINED = {
    "name-absolute": Contained(tar(Entry(b"/f")), ["f"]),
    "name-above-root": Contained(tar(Entry(b"../../../f")), ["f"]),
    "name-up-and-down": Contained(tar(Entry(b"a/../../b/f")), ["b", "b/f"]),
    "name-is-root": Contained(tar(Entry(b"/"), Entry(b"./", DIRECTORY), Entry(b".."), Entry(b""), Entry(b"a/..")), []),
    "name-ends-at-nul": Contained(tar(Entry(b"f\0/../../x")), ["f"]),
    "symlink-absolute": Contained(tar(Entry(b"s", SYMLINK, target=b"/etc"), Entry(b"s/f")), ["etc", "etc/f", "s"]),
    "symlink-above-root": Contained(
        tar(Entry(b"s", SYMLINK, target=b"../../../../etc"), Entry(b"s/f")), ["etc", "etc/f", "s"]
    ),
    "symlink-to-root": Contained(tar(Entry(b"s", SYMLINK, target=b"/"), Entry(b"s/f")), ["f", "s"]),
    "symlink-over-symlink": Contained(
        tar(Entry(b"s", SYMLINK, target=b"t/.."), Entry(b"t", SYMLINK, target=b"/a/b"), Entry(b"s/f")),
        ["a", "a/f", "s", "t"],
    ),
    "symlink-target-stays-text": Contained(tar(Entry(b"s", SYMLINK, target=b"/../../etc/shadow")), ["s"]),
    "symlink-replaced-by-file": Contained(tar(Entry(b"s", SYMLINK, target=b"/etc/shadow"), Entry(b"s")), ["s"]),
    "link-to-symlink": Contained(
        tar(Entry(b"s", SYMLINK, target=b"/etc/shadow"), Entry(b"l", LINK, target=b"s")), ["l", "s"]
    ),
    "link-target-above-root": Contained(tar(_FILE, Entry(b"l", LINK, target=b"../../f")), ["f", "l"]),
    "whiteout-through-symlink": Contained(tar(Entry(b"s", SYMLINK, target=b"/"), Entry(b"s/.wh.etc")), ["etc", "s"]),
    "opaque-root": Contained(tar(Entry(b".wh..wh..opq")), []),
    "xattr-of-overlay": Contained(
        tar(replace(_FILE, pax=_xattr(b"trusted.overlay.redirect", b"/etc") | _xattr(b"user.overlay.opaque", b"y"))),
        ["f"],
    ),
}
