"""Directories of ordinary snapshots: ``snapshots/<id>/{fs,work}`` below the root.

A directory is made as ``new-*`` and renamed to its number inside the transaction that inserts the row; a few spare ones
are made ahead, since a container's start waits for it. After the transaction that deletes the row it is renamed to
``rm-<id>-*``, and deleted later. Modes are containerd's (plugins/snapshots/overlay/overlay.go): the root 0700, ``fs``
0755 since it is the container's ``/``, ``work`` 0711. It must not know rows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from imagecache.errors import ImageCacheError
from imagecache.oserrors import converting
from imagecache.snapshotter.mounts import Own
from imagecache.snapshotter.snapshot import Kind

_log = structlog.get_logger(__name__)
_STAGED = "new-"
_RETIRED = "rm-"
_SPARE = 8
"""Spare directories: a pod with one container needs two, and pods start several at a time."""


class Directories:
    """Thread-safe. One process only: a directory that it did not make is an orphan."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._spare: list[Path] = []
        self._staged: set[str] = set()
        self._staged_lock = threading.Lock()

    def own(self, snapshot: int) -> Own:
        directory = self._root / str(snapshot)
        return Own(directory / "fs", directory / "work")

    @contextlib.contextmanager
    def staged(self, kind: Kind, owner: tuple[int, int] | None) -> Iterator[Callable[[int], None]]:
        """Make a snapshot's directories; the block calls the function that it gets with the row's number, once.

        Args:
            kind: views have no ``work``.
            owner: user and group of ``fs``, which the container sees as ``/``; None: this process's.
        """
        # The directory exists before the row, so a row never lacks its directory.
        with self._staging() as directory:
            placed: list[int] = []
            with converting(directory):
                if owner not in {None, (os.geteuid(), os.getegid())}:
                    os.chown(directory / "fs", *owner)
                if kind is not Kind.ACTIVE:
                    (directory / "work").rmdir()

            def place(snapshot: int) -> None:
                with converting(directory):
                    self._rename(directory, snapshot)
                placed.append(snapshot)

            try:
                yield place
            except BaseException:
                for snapshot in placed:  # the transaction failed, so its number may be assigned again
                    self.retire(snapshot)
                raise

    def _rename(self, directory: Path, snapshot: int) -> None:
        target = self._root / str(snapshot)
        try:
            directory.rename(target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:  # both mean "not empty" (rename(2))
                raise
            self.retire(snapshot)  # left by a process that was killed before its commit
            directory.rename(target)

    def retire(self, snapshot: int) -> None:
        """Move a directory out of the way. Never fails: one that stays is an orphan."""
        try:
            (self._root / str(snapshot)).rename(self._root / f"{_RETIRED}{snapshot}-{secrets.token_hex(4)}")
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("directory not renamed, will retry", snapshot=snapshot, problem=str(error))

    def retire_orphans(self, known: frozenset[int], *, above: int) -> None:
        """Retire directories without a row. Call it inside a write transaction: then no row is about to be inserted.

        Numbers up to ``above`` belong to a lost database and stay: containers may run in them.
        """
        names = self._names()
        with self._staged_lock:  # after the listing: a name is noted under this lock as soon as it is made
            staged = frozenset(self._staged)
        for name in names:
            if name.isdecimal():
                if int(name) > above and int(name) not in known:
                    self.retire(int(name))
            elif name.startswith(_STAGED) and name not in staged:
                with contextlib.suppress(OSError):
                    (self._root / name).rename(self._root / f"{_RETIRED}{name}")

    def delete_retired(self) -> None:
        """Free their space. May take long; never fails."""
        for name in self._names():
            if name.startswith(_RETIRED):
                shutil.rmtree(
                    self._root / name, ignore_errors=True
                )  # what is left is retried, and must not end the loop
                if (self._root / name).exists():
                    _log.warning("directory not deleted, will retry", path=str(self._root / name))

    def highest(self) -> int:
        """The highest number in use, 0 for none."""
        return max((int(name) for name in self._names() if name.isdecimal()), default=0)

    def _names(self) -> list[str]:
        with converting(self._root):
            return [path.name for path in self._root.iterdir()]

    @property
    def has_spare(self) -> bool:
        return bool(self._spare)

    def make_spares(self) -> None:
        """Never fails: without a spare directory, ``staged`` makes one."""
        try:
            while len(self._spare) < _SPARE:
                self._spare.append(self._make())
        except ImageCacheError as error:
            _log.warning("no spare directory made", problem=str(error))

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        try:
            directory = self._spare.pop()
        except IndexError:
            directory = self._make()
        try:
            yield directory
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        finally:
            self._staged.discard(directory.name)

    def _make(self) -> Path:
        """With ``fs`` and ``work``. Raises StoreError, NoSpace, StoreDenied."""
        with self._staged_lock, converting(self._root):
            directory = Path(tempfile.mkdtemp(prefix=_STAGED, dir=self._root))
            self._staged.add(directory.name)
        try:
            with converting(directory):
                for name, mode in (("fs", 0o755), ("work", 0o711)):
                    path = directory / name
                    path.mkdir()
                    path.chmod(mode)  # mkdir(2) applies the umask
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            self._staged.discard(directory.name)
            raise
        return directory
