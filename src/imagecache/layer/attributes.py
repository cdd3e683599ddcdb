"""Owner and time of an entry, as containerd's system calls would leave them (``docs/internals/unpack-rules.md`` §14).

It must not change an inode. Source: containerd ``pkg/archive/tar.go`` (Lchown), ``time.go`` (boundTime); chown(2).
"""

from __future__ import annotations

from imagecache.layer.tar_entry import TarEntry
from imagecache.layer.tar_numbers import INT64_MAX

UNCHANGED = 0xFFFF_FFFF
"""(uid_t) -1: chown(2) does not change that one."""
_SAFE_SECONDS = INT64_MAX // 1_000_000_000
"""Below this, nanoseconds fit 64 bits whatever the fraction is: no need to multiply for nearly every entry."""


def owner(entry: TarEntry, uid: int, gid: int) -> tuple[int, int]:
    """Owner and group after chown(2), which takes 32 bits of each; ``uid`` and ``gid`` are the present ones."""
    new_uid, new_gid = entry.uid & 0xFFFF_FFFF, entry.gid & 0xFFFF_FFFF
    return (uid if new_uid == UNCHANGED else new_uid), (gid if new_gid == UNCHANGED else new_gid)


def is_plain(seconds: int) -> bool:
    """Whether ``time`` is these seconds themselves, of an entry without a fraction."""
    return 0 <= seconds < _SAFE_SECONDS


def time(entry: TarEntry) -> tuple[int, int]:
    """Seconds and nanoseconds; the epoch for a time before it, or after the year 2262 (64 bits of nanoseconds)."""
    if 0 <= entry.mtime < _SAFE_SECONDS:
        return entry.mtime, entry.mtime_nsec
    nanoseconds = entry.mtime * 1_000_000_000 + entry.mtime_nsec
    return divmod(nanoseconds, 1_000_000_000) if 0 <= nanoseconds <= INT64_MAX else (0, 0)
