"""Locks between processes, by flock(2).

A lock ends with the process that holds it, however that ends, so no clean-up ever has to guess. flock belongs to the
open file: two threads that open the same file exclude each other, too, and a worker that inherits the descriptor keeps
the lock. On NFS, Linux turns flock into a byte-range lock that works between hosts; that is why files are always opened
for reading and writing. It must not know what is locked.

The order of locks is in ``docs/internals/store.md``: a layer's lock before collect, and collect before index.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from imagecache.errors import StoreBusy
from imagecache.oserrors import converting
from imagecache.store.owner import hand_over

_POLL = 0.05
"""Seconds between two tries of a wait that can be cancelled: flock(2) cannot be, from another thread."""


def open_locked(path: Path, *, shared: bool = False, wait: bool = True, create: int = os.O_CREAT) -> int:
    """Open and lock a file; closing the descriptor unlocks it. Raises StoreBusy, FileNotFoundError, OSError.

    The path names the locked file when this returns: a lock file is only removed by its holder, and a process that
    waited for a removed one tries again. ``create`` is ``O_CREAT``, ``O_CREAT | O_EXCL`` or 0.
    """
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        # O_RDWR: NFS refuses an exclusive lock on a file that is open for reading only. O_NOFOLLOW: in a shared store a
        # symbolic link could lead root to any file of this host.
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | create, 0o600)
        try:
            if create:
                hand_over(fd, path.parent)
            fcntl.flock(fd, operation)
            if _names(path, fd):  # else its holder removed it while we waited: lock the new file of that name
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise StoreBusy(f"{path} is in use by another process", hint="retry when that has ended") from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _names(path: Path, fd: int) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock file ``path`` during the block. Raises StoreBusy when not ``wait``, and the errors of the store."""
    with converting(path):
        fd = open_locked(path, shared=shared, wait=wait)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether no process has the file locked; if so, none can lock it until the block ends."""
    try:
        fd = open_locked(path, wait=False, create=0)
    except (StoreBusy, FileNotFoundError):
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)


class FileLock:
    """A lock that is held for long, and whose wait another thread can cancel.

    As a context manager it waits. One object is one holder: acquire once, release once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._mutex = threading.Lock()
        self._cancelled = threading.Event()

    def try_acquire(self) -> bool:
        """Lock it without waiting; False: it is locked."""
        with self._mutex, converting(self.path):
            if self._cancelled.is_set():
                raise StoreBusy(f"the wait for {self.path} was cancelled")
            try:
                self._fd = open_locked(self.path, wait=False)
            except StoreBusy:
                return False
            return True

    def acquire(self) -> None:
        """Wait for the lock. Raises StoreBusy when ``release`` is called meanwhile."""
        while not self.try_acquire():
            self._cancelled.wait(_POLL)

    def note(self, text: str) -> None:
        """Write a note into the lock file, for readers without the lock. It stays until the next one. Lock first."""
        with self._mutex, converting(self.path):
            assert self._fd is not None  # noqa: S101 - misuse of our own
            # Not atomic: a reader between the two sees an empty note, and takes it for none.
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)

    def release(self) -> None:
        """Unlock, or cancel the wait. Idempotent; the object cannot be used again."""
        self._cancelled.set()  # before the mutex: ``acquire`` takes it again for each try
        with self._mutex:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
