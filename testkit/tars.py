"""Tars made byte by byte, for what no archiver would write.

``Entry`` is one member with every field settable, ``tar`` joins them; ``random_image`` makes small layers whose names
often collide, link and hide each other. Callers pass fixed seeds: same seed, same bytes. The hostile table is in
``testkit.hostile_tars``.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from imagecache.layer.assemble import LayerTree, assemble
from imagecache.layer.tar_sources import ChunkSource
from imagecache.limits import DEFAULT, Limits
from imagecache.tree import Inode

BLOCK = 512
END = bytes(2 * BLOCK)

FILE, LINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO = (b"%d" % digit for digit in range(7))
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""``cap_net_raw=ep`` as the kernel stores it."""

USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = bytes(8)


@dataclass(frozen=True, slots=True)
class Entry:
    """One member. ``pax`` puts a local extended header before it."""

    name: bytes
    type: bytes = FILE
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    target: bytes = b""
    major: int = 0
    minor: int = 0
    size: int | None = None
    """What the header says, if not the content's length."""
    pax: Mapping[bytes, bytes] = field(default_factory=dict)
    magic: bytes = USTAR
    fields: Mapping[int, bytes] = field(default_factory=dict)
    """Offset in the header to bytes put there, before the checksum is made."""
    checksum: bytes | None = None

    def pack(self) -> bytes:
        extended = pax_header(self.pax) if self.pax else b""
        return extended + self.header() + padded(self.content)

    def header(self) -> bytes:
        block = bytearray(BLOCK)
        block[0:100] = self.name[:100].ljust(100, b"\0")
        block[100:108] = number(self.mode, 8)
        block[108:116] = number(self.uid, 8)
        block[116:124] = number(self.gid, 8)
        block[124:136] = number(len(self.content) if self.size is None else self.size, 12)
        block[136:148] = number(self.mtime, 12)
        block[156:157] = self.type
        block[157:257] = self.target[:100].ljust(100, b"\0")
        block[257:265] = self.magic
        block[329:337] = number(self.major, 8)
        block[337:345] = number(self.minor, 8)
        for offset, value in self.fields.items():
            block[offset : offset + len(value)] = value
        block[148:156] = b" " * 8
        block[148:156] = self.checksum or b"%06o\0 " % sum(block)
        return bytes(block)


def number(value: int, width: int) -> bytes:
    """Octal where that fits, else base-256."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    encoded = bytearray((value & ((1 << 8 * width) - 1)).to_bytes(width, "big"))
    encoded[0] |= 0x80
    return bytes(encoded)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def pax_record(key: bytes, value: bytes) -> bytes:
    """``length key=value``; the length includes itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(rest) + len(str(length)) != length:
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def pax_header(records: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    """An extended header with these records in their order; a key may repeat."""
    pairs = records.items() if isinstance(records, Mapping) else records
    body = b"".join(pax_record(key, value) for key, value in pairs)
    return Entry(b"PaxHeaders/x", kind, body).pack()


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    """GNU's header that carries the next entry's long name (``K``: its long target)."""
    return Entry(b"././@LongLink", kind, name + b"\0", magic=GNU).pack()


def sparse_file(name: bytes, size: int, data: Mapping[int, bytes]) -> Entry:
    """A file of ``size`` bytes with ``data`` at these offsets, as GNU tar writes it (PAX format 0.1)."""
    records = {
        b"GNU.sparse.major": b"0",
        b"GNU.sparse.minor": b"1",
        b"GNU.sparse.name": name,
        b"GNU.sparse.size": b"%d" % size,
        b"GNU.sparse.numblocks": b"%d" % len(data),
        b"GNU.sparse.map": b",".join(b"%d,%d" % (offset, len(content)) for offset, content in data.items()),
    }
    return Entry(b"GNUSparseFile.0/x", content=b"".join(data.values()), pax=records)


def tar(*members: Entry | bytes, end: bytes = END) -> bytes:
    return b"".join(member if isinstance(member, bytes) else member.pack() for member in members) + end


_NAMES = (b"a", b"b", b"c", b"d")
_TARGETS = (
    b"a", b"b", b"c/d", b"../a", b"../../b", b"/c", b"/a/b", b"..", b"/", b".", b"./b", b"a/../b", b"/b/../c", b"b//c/",
    b"/d/.././a", b"missing", b"c/../../d",
)  # fmt: skip


def random_image(seed: int, layers: int = 3) -> list[bytes]:
    """Layers, bottom first, with every kind of entry over few names. Most unpack; some must be refused."""
    rng = random.Random(seed)
    return [_RandomLayer(rng).make() for _ in range(layers)]


class _RandomLayer:
    """Prefers entries that unpack: parents that are directories, link targets that are files."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._directories = [b""]
        self._files: list[bytes] = []

    def make(self) -> bytes:
        return tar(*(self._member() for _ in range(self._rng.randint(2, 14))))

    def _path(self) -> bytes:
        rng = self._rng
        parts = [rng.choice(_NAMES) for _ in range(rng.choice((1, 1, 2, 3)))]
        if rng.random() < 0.08:
            parts.insert(rng.randrange(len(parts)), rng.choice((b"..", b".", b"")))
        if rng.random() < 0.75:
            parts = [rng.choice(self._directories), rng.choice(_NAMES)]
        return rng.choice((b"", b"", b"", b"./", b"/")) + b"/".join(part for part in parts if part)

    def _member(self) -> Entry | bytes:
        rng = self._rng
        if rng.random() < 0.02:
            return pax_header({b"comment": b"x", b"path": self._path()}, b"g")
        entry = Entry(
            self._path(),
            mode=rng.choice((0o644, 0o755, 0o700, 0o1777, 0o2775, 0o4755, 0o000)),
            uid=rng.choice((0, 0, 1, 1000, 65534, 0o7777777 + 1)),
            gid=rng.choice((0, 0, 5, 1000)),
            mtime=rng.choice((0, 1, 1_700_000_000, 1_600_000_000, -5, 1 << 33)),
            pax=_random_records(rng),
        )
        return self._typed(entry, rng.random())

    def _typed(self, entry: Entry, roll: float) -> Entry:
        rng = self._rng
        if roll < 0.36:
            self._directories.append(entry.name)
            return replace(entry, type=DIRECTORY, name=entry.name + rng.choice((b"/", b"", b"//")))
        if roll < 0.60:
            self._files.append(entry.name)
            return replace(entry, content=rng.randbytes(rng.choice((0, 1, 511, 512, 513, 2000))))
        if roll < 0.72:
            return replace(entry, type=SYMLINK, target=rng.choice(_TARGETS))
        if roll < 0.82 and self._files:
            target = self._path() if rng.random() < 0.05 else rng.choice(self._files)
            return replace(entry, type=LINK, target=target)
        if roll < 0.93:
            return replace(entry, name=self._whiteout(entry.name))
        kind = rng.choice((CHARACTER, CHARACTER, DEVICE, FIFO))
        return replace(entry, type=kind, major=rng.choice((0, 0, 8, 4096)), minor=rng.choice((0, 0, 1, 300, 1 << 20)))

    def _whiteout(self, name: bytes) -> bytes:
        head, slash, base = name.rpartition(b"/")
        marker = self._rng.choice((b".wh.." + base, b".wh." + base, b".wh..wh..opq", b".wh..wh..opq"))
        return head + slash + marker


def _random_records(rng: random.Random) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    if rng.random() < 0.1:
        records[b"mtime"] = rng.choice((b"1700000000.123456789", b"12.5", b"-3.25", b"99999999999"))
    if rng.random() < 0.1:
        records[b"SCHILY.xattr.user." + rng.choice((b"one", b"two"))] = rng.choice((b"1", b"", b"\0\xff"))
    if rng.random() < 0.06:
        records[b"SCHILY.xattr.security.capability"] = CAPABILITY
    if rng.random() < 0.03:
        records[b"SCHILY.xattr.trusted.overlay.opaque"] = b"y"
    return records


def grow(*members: Entry | bytes, bottom: bool = False, limits: Limits = DEFAULT) -> LayerTree:
    """The tree of a layer with these members."""
    return assemble(ChunkSource([tar(*members)]), bottom=bottom, limits=limits)


def at(tree: LayerTree, path: str) -> Inode:
    """The inode at ``path``, no symlink followed; KeyError if it does not exist."""
    inode = tree.root
    for part in path.encode().split(b"/"):
        inode = inode.children[part]
    return inode


def paths(tree: LayerTree) -> list[str]:
    """Every path of a tree, sorted."""
    found: list[str] = []
    pending = [("", tree.root)]
    while pending:
        prefix, inode = pending.pop()
        for name, child in inode.children.items():
            path = prefix + name.decode(errors="backslashreplace")
            found.append(path)
            pending.append((path + "/", child))
    return sorted(found)
