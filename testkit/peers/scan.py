"""What a mounted tree is, path by path, and how two trees differ. The judge of the differential tests.

It looks through the kernel only (lstat, readlink, listxattr, read), never at how a tree was made.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PathFacts:
    """One path. Sizes of directories and inode numbers are the filesystem's own business and left out."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    nlink: int
    same_as: bytes
    """The first path, in order, with the same inode (hard links)."""
    target: bytes
    device: tuple[int, int]
    xattrs: Mapping[bytes, bytes]
    content: str
    """SHA-256 of a regular file."""


Tree = Mapping[bytes, PathFacts]


def scan(root: Path) -> Tree:
    """Facts of everything below ``root``, which itself is ``b""``. Paths are relative."""
    first: dict[tuple[int, int], bytes] = {}
    return {path: _facts(full, path, first) for path, full in sorted(_walk(os.fsencode(root), b""))}


def _walk(full: bytes, path: bytes) -> Iterator[tuple[bytes, bytes]]:
    try:
        status = os.lstat(full)
    except FileNotFoundError:
        return  # overlayfs lists whiteouts in directories that only one layer has; no other call sees them
    yield path, full
    if stat.S_ISDIR(status.st_mode):
        for name in os.listdir(full):  # noqa: PTH208 - names here may be any bytes
            yield from _walk(full + b"/" + name, path + b"/" + name if path else name)


def _facts(full: bytes, path: bytes, first: dict[tuple[int, int], bytes]) -> PathFacts:
    status = os.lstat(full)
    folder, file, link = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode)
    special = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    return PathFacts(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=0 if folder else status.st_size,
        mtime_ns=status.st_mtime_ns,
        nlink=0 if folder else status.st_nlink,
        same_as=b"" if folder else first.setdefault((status.st_dev, status.st_ino), path),
        target=os.readlink(full) if link else b"",  # noqa: PTH115 - names here may be any bytes
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if special else (0, 0),
        xattrs={os.fsencode(name): _xattr(full, name) for name in os.listxattr(full, follow_symlinks=False)},
        content=_digest(full) if file else "",
    )


def _xattr(full: bytes, name: str) -> bytes:
    return os.getxattr(full, name, follow_symlinks=False)


def _digest(full: bytes) -> str:
    with open(full, "rb") as file:  # noqa: PTH123 - names here may be any bytes
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(expected: Tree, found: Tree, *, unpacked_after_ns: int) -> list[str]:
    """One line for each difference.

    A directory whose time in ``expected`` is not before ``unpacked_after_ns`` was made by the act of unpacking, so it
    has no time of its own to compare (unpack-rules §3); the root is always such a one.
    """
    lines = [f"{path!r} is missing" for path in expected.keys() - found.keys()]
    lines += [f"{path!r} should not be there: {found[path]}" for path in found.keys() - expected.keys()]
    for path in expected.keys() & found.keys():
        want, have = expected[path], found[path]
        no_time = stat.S_ISDIR(want.mode) and (not path or want.mtime_ns >= unpacked_after_ns)
        for field in fields(PathFacts):
            wanted, got = getattr(want, field.name), getattr(have, field.name)
            if wanted != got and not (no_time and field.name == "mtime_ns"):
                lines.append(f"{path!r} {field.name}: {wanted!r} expected, {got!r} found")
    return sorted(lines)
