"""Kills and power failures, at every point where a program changes the disk.

``killed_at`` runs a function in a forked child that dies at its n-th changing system call, as by SIGKILL: what it did
until then stays. ``PowerLog`` records what is fsynced, and for each point the states in which a power failure there may
leave the disk. Neither may be used in a process that has threads.
"""

from __future__ import annotations

import enum
import os
import random
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHANGING = ("fchmod", "fsync", "ftruncate", "link", "mkdir", "open", "pwrite", "rename", "replace", "unlink", "utime")
"""Functions of ``os`` that change a disk; pathlib calls these too."""

_KILLED = 77

Call = tuple[object, ...]
Disk = Mapping[Path, bytes | None]
"""Relative path to content; None is a directory."""


@contextmanager
def watched(before: Callable[[str, Call], None], after: Callable[[str, Call, object], None]) -> Iterator[None]:
    """Around each changing system call of the block: name and arguments before, the same and the result after."""
    real = {name: getattr(os, name) for name in CHANGING}

    def wrap(name: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            before(name, args)
            result: object = real[name](*args, **kwargs)
            after(name, args, result)
            return result

        return call

    try:
        for name in CHANGING:
            setattr(os, name, wrap(name))
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def killed_at(point: int, work: Callable[[], None]) -> bool:
    """Run ``work`` in a child that dies at its changing call number ``point``; False when it has fewer.

    A write dies half done, everything else before it begins. An error in the child is an AssertionError here.
    """
    child = os.fork()
    if child == 0:
        _run_and_die(point, work)
    _pid, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, _KILLED}, f"the child ended with {code}"
    return code == _KILLED


def _run_and_die(point: int, work: Callable[[], None]) -> None:
    left = point
    write = os.write  # half of a write is written by a function that is not watched

    def die(name: str, args: Call) -> None:
        nonlocal left
        if left == 0:
            if name == "pwrite":
                fd, data, offset = args
                assert isinstance(fd, int)
                assert isinstance(offset, int)
                assert isinstance(data, memoryview)
                os.lseek(fd, offset, os.SEEK_SET)
                write(fd, data[: len(data) // 2])
            os._exit(_KILLED)
        left -= 1

    try:
        with watched(die, lambda _name, _args, _result: None):
            work()
    except BaseException:  # noqa: BLE001 - the parent asserts on the exit code
        os._exit(1)
    os._exit(0)


class Loss(enum.Enum):
    """What a power failure does to changes that were not fsynced."""

    ALL = "all"
    """Names are as at the directory's last fsync, content as at the file's; other files are empty."""
    CONTENT = "content"
    """Names have reached the disk, content has not: zeros of the right length."""
    SOME = "some"
    """Each directory and each file at random, with a fixed seed."""


@dataclass(slots=True)
class Failure:
    """A power failure right after one call."""

    disk: Disk
    """The disk afterwards."""
    promised: tuple[str, ...]
    """What the program had reported as done by then."""


class PowerLog:
    """Everything that is fsynced below ``root``, and the power failures that may follow each call.

    ``done`` is the list to which the program appends what it reports.
    """

    def __init__(self, root: Path, done: list[str], loss: Loss, seed: int = 0) -> None:
        self.failures: list[Failure] = []
        self._root = root
        self._done = done
        self._loss = loss
        self._random = random.Random(seed)
        self._ids: dict[int, int] = {}
        self._synced: dict[int, bytes] = {}
        self._listed: dict[Path, dict[str, int | None]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        with watched(self._promise, self._note):
            yield
        self._promise()

    def _promise(self, *_call: object) -> None:
        """What is reported before the next changing call belongs to the last one."""
        if self.failures:
            self.failures[-1].promised = tuple(self._done)

    def _note(self, name: str, args: Call, result: object) -> None:
        if name == "open" and isinstance(result, int):
            self._opened(result)
        elif name == "fsync" and isinstance(args[0], int):
            self._fsynced(args[0])
        self.failures.append(Failure(dict(self._disk(self._root)), ()))

    def _opened(self, fd: int) -> None:
        """An empty file gets a new identity: its inode number may have belonged to another file."""
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_size == 0:
            self._ids[found.st_ino] = len(self._synced)
            self._synced[len(self._synced)] = b""

    def _fsynced(self, fd: int) -> None:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            directory = Path(f"/proc/self/fd/{fd}").readlink()
            self._listed[directory] = self._listing(directory)
        else:
            self._synced[self._ids[found.st_ino]] = os.pread(fd, found.st_size, 0)

    def _listing(self, directory: Path) -> dict[str, int | None]:
        return {entry.name: None if entry.is_dir() else self._ids[entry.inode()] for entry in os.scandir(directory)}

    def _disk(self, directory: Path) -> Iterator[tuple[Path, bytes | None]]:
        now = self._listing(directory)
        names = self._listed.get(directory, {}) if self._lost(Loss.ALL) else now
        for name, identity in names.items():
            path = directory / name
            if identity is None:
                yield path.relative_to(self._root), None
                yield from self._disk(path)
            else:
                yield path.relative_to(self._root), self._content(path, identity, present=now.get(name) == identity)

    def _content(self, path: Path, identity: int, *, present: bool) -> bytes:
        synced = self._synced[identity]
        if not present or self._lost(Loss.ALL):
            return synced
        content = path.read_bytes()
        if content == synced or self._loss is Loss.SOME:
            return content
        return bytes(len(content))

    def _lost(self, loss: Loss) -> bool:
        return self._loss is loss or (self._loss is Loss.SOME and self._random.random() < 0.5)


def write_out(disk: Disk, root: Path) -> None:
    """Make a directory with the content of ``disk``."""
    root.mkdir(0o700)
    for path, content in disk.items():
        if content is None:
            (root / path).mkdir(0o700)
        else:
            (root / path).write_bytes(content)
