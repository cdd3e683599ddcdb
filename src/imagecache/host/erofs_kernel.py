"""What is known of the kernel's EROFS by its version. Pure.

Everything else about a kernel is found by trying (``probe_kernel``). One fault cannot be tried, since it needs a
process that is killed at the right moment: of a filesystem that is mounted straight from a file, a read that SIGKILL
cuts short leaves zeros in the page cache, which every later reader gets. Mended by upstream eade54040384 ("erofs: set
fileio bio failed in short read case"), in 7.0-rc6 and in the stable releases below (their announcements of 2026-04-02).
"""

from __future__ import annotations

import re

from imagecache.settings.choices import MountFrom

FROM_FILE_SINCE = (6, 12)
"""The first kernel that mounts EROFS from a file."""
MENDED = {(6, 12): 80, (6, 18): 21, (6, 19): 11}
"""The first mended release of each series; those between them ended without one."""
_MENDED_SINCE = (7, 0)
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def version(release: str) -> tuple[int, int, int]:
    """The numbers of ``uname -r``; zeros for those that are missing."""
    found = _RELEASE.match(release)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else (0, 0, 0)


def may_read_zeros(release: str) -> bool:
    """Whether mounts from files have the fault, as far as the version says: distributions may have mended theirs."""
    major, minor, patch = version(release)
    series = (major, minor)
    if series < FROM_FILE_SINCE or series >= _MENDED_SINCE:
        return False
    return series not in MENDED or patch < MENDED[series]


def needs_loop(mount_from: MountFrom, release: str) -> bool:
    """Whether every layer image is mounted on a loop device, although the kernel may not need one."""
    return mount_from is MountFrom.LOOP or (mount_from is MountFrom.AUTO and may_read_zeros(release))
