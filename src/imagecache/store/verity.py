"""fs-verity: the kernel keeps a Merkle tree of a file, and fails every read of a byte that has changed since.

A file that is sealed can be removed, but never changed, by nobody; its digest can be asked for without reading it. So
a node that did not write a layer image, and cannot read it whole before each use, knows that it is the one that the
controller has made. ext4 and f2fs (feature ``verity``) and btrfs have it, in kernels with CONFIG_FS_VERITY; no network
filesystem does. Source: Documentation/filesystems/fsverity.rst, include/uapi/linux/fsverity.h.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from imagecache.digest import Digest
from imagecache.oserrors import converting

_ENABLE = 0x40806685
"""FS_IOC_ENABLE_VERITY: _IOW('f', 133, struct fsverity_enable_arg)"""
_MEASURE = 0xC0046686
"""FS_IOC_MEASURE_VERITY: _IOWR('f', 134, struct fsverity_digest)"""
_ARGUMENT = struct.Struct("<IIIIQIIQ88x")
"""version, algorithm, block size, salt size, salt, signature size, reserved, signature"""
_DIGEST = struct.Struct("<HH64s")
"""algorithm, size, digest: more room than SHA-256 needs, so that another one is recognised"""
_SHA256, _BLOCK = 1, 4096
Measure = Callable[[Path], Digest | None]
"""``measure``, or what answers in its place."""


def seal(path: Path) -> Digest | None:
    """Seal an immutable file that nobody writes to any longer; None: not here, or not now.

    Idempotent. Raises StoreError, StoreDenied when the file cannot be opened.
    """
    with converting(path):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = _measured(fd)
            return found if found is not None else _sealed(fd)
        finally:
            os.close(fd)


def measure(path: Path) -> Digest | None:
    """The digest of a sealed file; None for any other, and for one that does not exist."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _measured(fd)
    finally:
        os.close(fd)


def is_there(path: Path, sealed: Digest | None, ask: Measure = measure) -> bool:
    """Whether the file exists, and is the one that was sealed with this digest; None: it was not sealed."""
    return path.is_file() if sealed is None else ask(path) == sealed


def _sealed(fd: int) -> Digest | None:
    mode = os.fstat(fd).st_mode & 0o7777
    try:
        os.fchmod(fd, mode | 0o200)  # the kernel asks whether we may write to the file, although it is not open for it
        try:
            fcntl.ioctl(fd, _ENABLE, _ARGUMENT.pack(1, _SHA256, _BLOCK, 0, 0, 0, 0, 0))
        finally:
            os.fchmod(fd, mode)
    except OSError:  # no such ioctl, feature or hash; or a writer still has it open (ETXTBSY)
        return None
    return _measured(fd)


def _measured(fd: int) -> Digest | None:
    try:
        answer = fcntl.ioctl(fd, _MEASURE, _DIGEST.pack(0, 64, b""))
    except OSError:  # not sealed, or no such ioctl
        return None
    algorithm, size, digest = _DIGEST.unpack(answer)
    return Digest(f"sha256:{digest[:size].hex()}") if (algorithm, size) == (_SHA256, 32) else None
