"""One entry of a tar, as read: names and numbers, not yet judged.

It is the seam between the reader (``tar_reader``) and the meaning of a layer (``assemble``). It must not decide what
an entry does to a tree. Source: POSIX pax, "ustar Interchange Format" (typeflag); GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imagecache.tree import Segment

FILE: Final = 0x30
HARD_LINK: Final = 0x31
SYMLINK: Final = 0x32
CHARACTER_DEVICE: Final = 0x33
BLOCK_DEVICE: Final = 0x34
DIRECTORY: Final = 0x35
FIFO: Final = 0x36
V7_FILE: Final = 0x00
"""The reader makes it a file, or with a trailing slash a directory; no entry leaves the reader with it."""
PAX_LOCAL: Final = ord("x")
PAX_GLOBAL: Final = ord("g")
GNU_LONG_NAME: Final = ord("L")
GNU_LONG_LINK: Final = ord("K")
GNU_SPARSE: Final = ord("S")

HEADER_ONLY: Final = frozenset({HARD_LINK, SYMLINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO})
"""Types without content, whatever their size field says: some tars give a hard link the size of its target."""


@dataclass(slots=True)
class TarEntry:
    """Numbers are as in the header (64 bits, signed), names as bytes without NUL."""

    name: bytes
    type: int
    """The type flag: one of the constants above, or an unknown one."""
    mode: int
    uid: int
    gid: int
    mtime: int
    """Seconds since the epoch, possibly negative."""
    mtime_nsec: int
    size: int
    """Length of the file's content; of a sparse file, with its holes."""
    data: int
    """Offset of the content in the tar; for a sparse file of its first stored byte."""
    target: bytes = b""
    """Of a symlink or a hard link."""
    major: int = 0
    minor: int = 0
    sparse: tuple[Segment, ...] | None = None
    xattrs: dict[bytes, bytes] | None = None
    """``SCHILY.xattr.`` records, without the prefix; None without one."""


def quoted(name: bytes) -> str:
    """A name for a message: printable, in quotes, at most 200 characters."""
    text = repr(name[:400].decode("utf-8", "backslashreplace"))
    return text if len(text) <= 200 else text[:198] + "…" + text[0]
