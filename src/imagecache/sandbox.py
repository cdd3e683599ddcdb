"""What a process can still do after it has opened all that it needs: compute, and use the files that it is handed.

Two locks, both for good and without privilege. seccomp allows a list of system calls, none of which opens, connects,
executes, forks, signals or looks into another process; Landlock, where the kernel has it, takes away every path and
every TCP port. Source: seccomp(2); landlock(7), uapi/linux/landlock.h; linux/filter.h; asm/unistd.h of each machine. It
must be called before the process has threads, and after the last import.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_SET_MODE_FILTER, _TSYNC = 1, 1

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""BPF_LD|W|ABS, BPF_JMP|JEQ|K, JGE, JSET, BPF_RET|K"""
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_INSTRUCTION = struct.Struct("<HBBI")
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data."""
_X32 = 0x40000000
"""Bit of calls of x86's third ABI, whose numbers mean something else."""

_LANDLOCK_CREATE, _LANDLOCK_RESTRICT, _LANDLOCK_VERSION = 444, 446, 1
_NOT_OFFERED = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
"""By the kernel, by its configuration, or by the seccomp profile of an older container runtime."""


@dataclass(frozen=True, slots=True)
class _Machine:
    audit: int
    """AUDIT_ARCH_..."""
    seccomp: int
    """Number of seccomp(2) itself."""
    numbers: Mapping[str, int]
    has_x32: bool = False


# fmt: off
_X86_64 = _Machine(
    0xC000003E,
    317,
    {
        "read": 0,
        "write": 1,
        "close": 3,
        "fstat": 5,
        "poll": 7,
        "lseek": 8,
        "mmap": 9,
        "mprotect": 10,
        "munmap": 11,
        "brk": 12,
        "rt_sigaction": 13,
        "rt_sigprocmask": 14,
        "rt_sigreturn": 15,
        "pread64": 17,
        "pwrite64": 18,
        "readv": 19,
        "writev": 20,
        "sched_yield": 24,
        "mremap": 25,
        "madvise": 28,
        "dup": 32,
        "nanosleep": 35,
        "getpid": 39,
        "sendto": 44,
        "recvfrom": 45,
        "sendmsg": 46,
        "recvmsg": 47,
        "clone": 56,
        "exit": 60,
        "fcntl": 72,
        "fsync": 74,
        "fdatasync": 75,
        "ftruncate": 77,
        "getrlimit": 97,
        "getrusage": 98,
        "times": 100,
        "getppid": 110,
        "sigaltstack": 131,
        "gettid": 186,
        "futex": 202,
        "sched_getaffinity": 204,
        "restart_syscall": 219,
        "fadvise64": 221,
        "clock_gettime": 228,
        "clock_getres": 229,
        "clock_nanosleep": 230,
        "exit_group": 231,
        "newfstatat": 262,
        "pselect6": 270,
        "ppoll": 271,
        "set_robust_list": 273,
        "sync_file_range": 277,
        "fallocate": 285,
        "preadv": 295,
        "pwritev": 296,
        "prlimit64": 302,
        "getrandom": 318,
        "membarrier": 324, "copy_file_range": 326, "preadv2": 327, "pwritev2": 328,
        "rseq": 334,
        "clone3": 435,
    },
    has_x32=True,
)
_AARCH64 = _Machine(
    0xC00000B7,
    277,
    {
        "dup": 23,
        "fcntl": 25,
        "ftruncate": 46,
        "fallocate": 47,
        "close": 57,
        "lseek": 62,
        "read": 63,
        "write": 64,
        "readv": 65,
        "writev": 66,
        "pread64": 67,
        "pwrite64": 68,
        "preadv": 69,
        "pwritev": 70,
        "pselect6": 72,
        "ppoll": 73,
        "newfstatat": 79,
        "fstat": 80,
        "fsync": 82,
        "fdatasync": 83,
        "sync_file_range": 84,
        "exit": 93,
        "exit_group": 94,
        "futex": 98,
        "set_robust_list": 99,
        "nanosleep": 101,
        "clock_gettime": 113,
        "clock_getres": 114,
        "clock_nanosleep": 115,
        "sched_getaffinity": 123,
        "sched_yield": 124,
        "restart_syscall": 128,
        "sigaltstack": 132,
        "rt_sigaction": 134,
        "rt_sigprocmask": 135,
        "rt_sigreturn": 139,
        "times": 153,
        "getrlimit": 163,
        "getrusage": 165,
        "getpid": 172,
        "getppid": 173,
        "gettid": 178,
        "sendto": 206,
        "recvfrom": 207,
        "sendmsg": 211,
        "recvmsg": 212,
        "brk": 214,
        "munmap": 215,
        "mremap": 216,
        "clone": 220,
        "mmap": 222,
        "fadvise64": 223,
        "mprotect": 226,
        "madvise": 233,
        "prlimit64": 261,
        "getrandom": 278,
        "membarrier": 283, "copy_file_range": 285, "preadv2": 286, "pwritev2": 287,
        "rseq": 293,
        "clone3": 435,
    },
)
# fmt: on
_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64}
LOCKS = {"no_new_privs": "NoNewPrivs:\t1", "seccomp": "Seccomp:\t2"}
"""With their lines in /proc/PID/status."""
_CLONE_THREAD, _PROT_EXEC = 0x10000, 4
_FCNTL = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: with F_SETOWN a process signals others."""


def enter() -> None:
    """Take everything away. Raises OSError: the process must end then, since it would go on with what it should lose.

    A kernel without Landlock is no error, one whose Landlock fails is; a machine whose calls are not known is.
    """
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise OSError(errno.EBUSY, "Landlock holds for one thread, and the process has several")
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl PR_SET_NO_NEW_PRIVS")
    _checked(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl PR_SET_DUMPABLE")
    _landlock(libc)
    _seccomp(libc)


def landlock_abi() -> int:
    """0: this kernel has none, or nobody may use it here."""
    found = ctypes.CDLL(None, use_errno=True).syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if found < 0 and ctypes.get_errno() not in _NOT_OFFERED:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    return max(0, int(found))


def in_force(pid: int) -> tuple[str, ...]:
    """Those of ``LOCKS`` that the kernel says are on a process; Landlock it does not say. Empty when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return tuple(name for name, line in LOCKS.items() if line in lines)


def _landlock(libc: ctypes.CDLL) -> None:
    """An empty ruleset: all that can be handled is, and nothing is allowed."""
    abi = landlock_abi()
    if not abi:
        return
    files = (1 << (13 + (abi >= 2) + (abi >= 3) + (abi >= 5))) - 1
    attributes = struct.pack("<Q", files)
    if abi >= 4:
        attributes += struct.pack("<Q", 3)  # bind and connect of TCP
    if abi >= 6:
        attributes += struct.pack("<Q", 3)  # abstract Unix sockets and signals
    ruleset = _checked(libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0), "landlock_create_ruleset")
    try:
        _checked(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _seccomp(libc: ctypes.CDLL) -> None:
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"the system calls of {platform.machine()} are not known here")
    program = list(_program(machine))
    filters = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*each) for each in program))
    head = struct.pack("<H6xQ", len(program), ctypes.addressof(filters))  # struct sock_fprog
    if libc.syscall(machine.seccomp, _SET_MODE_FILTER, _TSYNC, head) != 0:  # -1, or a thread that cannot follow
        raise OSError(ctypes.get_errno() or errno.ESRCH, "seccomp")


_Step = tuple[int, int, int, int]
"""Code, instructions to skip if true and if false, operand."""


def _program(machine: _Machine) -> Iterator[_Step]:
    yield _LOAD, 0, 0, _MACHINE
    yield _EQUAL, 1, 0, machine.audit
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER
    if machine.has_x32:
        yield _AT_LEAST, 0, 1, _X32
        yield _RETURN, 0, 0, _KILL
    conditions = {
        "clone": _if_argument(0, [(_ANY_BIT, _CLONE_THREAD)]),  # a thread, and no process
        "clone3": [(_RETURN, 0, 0, _refused(errno.ENOSYS))],  # its flags are in memory: libc then uses clone
        "mmap": _unless_argument(2, _PROT_EXEC),
        "mprotect": _unless_argument(2, _PROT_EXEC),
        "prlimit64": _if_argument(0, [(_EQUAL, 0)]),  # of itself
        "fcntl": _if_argument(1, [(_EQUAL, command) for command in _FCNTL]),
    }
    for name, number in machine.numbers.items():
        steps = conditions.get(name, [(_RETURN, 0, 0, _ALLOW)])
        yield _EQUAL, 0, len(steps), number
        yield from steps
    yield _RETURN, 0, 0, _refused(errno.EPERM)


def _if_argument(index: int, tests: Iterable[tuple[int, int]]) -> list[_Step]:
    """Allowed when one of the tests is true of the argument's low half."""
    steps: list[_Step] = [(_LOAD, 0, 0, _ARGUMENTS + 8 * index)]
    for test, operand in tests:
        steps += [(test, 0, 1, operand), (_RETURN, 0, 0, _ALLOW)]
    return [*steps, (_RETURN, 0, 0, _refused(errno.EPERM))]


def _unless_argument(index: int, bit: int) -> list[_Step]:
    load: _Step = (_LOAD, 0, 0, _ARGUMENTS + 8 * index)
    return [load, (_ANY_BIT, 1, 0, bit), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _refused(errno.EPERM))]


def _refused(number: int) -> int:
    return 0x00050000 | number


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result
