"""Less privilege for a process that reads what others wrote, for good and before it reads the first byte.

Source: prctl(2) PR_SET_NO_NEW_PRIVS, setrlimit(2), credentials(7). It must not be called in a process that still needs
root: nothing here can be undone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
"""<linux/prctl.h>; the standard library has no prctl."""
_NOBODY = 65534
"""The kernel's overflow uid and gid: owns nothing on any distribution."""


def restrict_process(memory: int | None = None, *, most: int | None = None) -> None:
    """No new privileges through execve (setuid programs), no core dump, and a bound on memory.

    Args:
        memory: bytes of data (RLIMIT_DATA) of this process and of each of its children; None: no bound of its own.
        most: to which they may raise that; None: not at all.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_NO_NEW_PRIVS")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold a layer's content, and credentials
    if memory is not None:
        _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = max(memory, most or 0)
        if hard != resource.RLIM_INFINITY:
            memory, most = min(memory, hard), min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (memory, most))


def die_first() -> None:
    """When memory runs out, the kernel ends this process before all others, whatever it has inherited.

    A child of a service with OOMScoreAdjust=-999 would be the last to end otherwise. Call it before ``become_nobody``:
    afterwards the file is root's.
    """
    with contextlib.suppress(OSError):  # no /proc here, or it is read-only: then the kernel goes by size, as for all
        Path("/proc/self/oom_score_adj").write_text("1000")


def become_nobody() -> None:
    """Give up root in real, effective and saved ids; without root, nothing. Raises OSError."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)  # before the uid: afterwards it is not allowed
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
