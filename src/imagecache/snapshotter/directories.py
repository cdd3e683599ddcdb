"""Directories of ordinary snapshots: ``snapshots/<id>/{fs,work}`` below the root.

They are made beside their place and renamed into it inside the transaction that inserts the row, a few ahead, since a
container waits for them; they leave by a rename to ``rm-<id>-*`` after the transaction that deletes it, and are deleted
when there is time. Modes are containerd's
(plugins/snapshots/overlay/overlay.go): the root 0700, ``fs`` 0755 since it is the container's ``/``, ``work`` 0711. It
must not know rows.
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
from imagecache.snapshotter.model import Kind
from imagecache.snapshotter.mounts import Own

_log = structlog.get_logger(__name__)
_STAGED = "new-"
_RETIRED = "rm-"
_SPARE = 8
"""Directories made ahead: a pod with one container takes two, and pods come several at a time."""


class Directories:
    """Thread-safe. One process only: what it does not know of is an orphan."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._spare: list[Path] = []
        self._staged: set[str] = set()
        self._staged_lock = threading.Lock()

    def own(self, snapshot: int) -> Own:
        directory = self._root / str(snapshot)
        return Own(directory / "fs", directory / "work")

    @contextlib.contextmanager
    def staged(self, kind: Kind, owner: Path | None) -> Iterator[Callable[[int], None]]:
        """Make a snapshot's directories; the block calls what it gets with the number of the row, once.

        Args:
            kind: views have no ``work``.
            owner: the directory below, whose owner ``fs`` gets, as the container's root should have.
        """
        with self._staging() as directory:
            placed: list[int] = []
            with converting(directory):
                if owner is not None:
                    _give(directory / "fs", owner)
                if kind is not Kind.ACTIVE:
                    (directory / "work").rmdir()

            def place(snapshot: int) -> None:
                with converting(directory):
                    self._rename(directory, snapshot)
                placed.append(snapshot)

            try:
                yield place
            except BaseException:
                for snapshot in placed:
                    self.retire(snapshot)
                raise

    def _rename(self, directory: Path, snapshot: int) -> None:
        target = self._root / str(snapshot)
        try:
            directory.rename(target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            self.retire(snapshot)  # of a process that was killed before its commit
            directory.rename(target)

    def retire(self, snapshot: int) -> None:
        """Take a directory out of the way. Never fails: what stays is an orphan."""
        try:
            (self._root / str(snapshot)).rename(self._root / f"{_RETIRED}{snapshot}-{secrets.token_hex(4)}")
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("directory not renamed, trying again later", snapshot=snapshot, problem=str(error))

    def retire_orphans(self, known: frozenset[int], *, above: int) -> None:
        """Retire what has no row and is not being made. Call it inside a transaction: then no row is on its way.

        Numbers up to ``above`` are of a lost database and stay: containers may live in them.
        """
        names = self._names()
        with self._staged_lock:  # whoever has made one of these names has noted it by now
            staged = frozenset(self._staged)
        for name in names:
            if name.isdecimal():
                if int(name) > above and int(name) not in known:
                    self.retire(int(name))
            elif name.startswith(_STAGED) and name not in staged:
                with contextlib.suppress(OSError):
                    (self._root / name).rename(self._root / f"{_RETIRED}{name}")

    def delete_retired(self) -> None:
        """Free their space. Takes as long as it takes, never fails."""
        for name in self._names():
            if name.startswith(_RETIRED):
                shutil.rmtree(self._root / name, ignore_errors=True)
                if (self._root / name).exists():
                    _log.warning("directory not deleted, trying again later", path=str(self._root / name))

    def highest(self) -> int:
        """The highest number in use, 0 for none."""
        return max((int(name) for name in self._names() if name.isdecimal()), default=0)

    def _names(self) -> list[str]:
        with converting(self._root):
            return [path.name for path in self._root.iterdir()]

    @property
    def ahead(self) -> bool:
        """Whether a directory is there for who comes next."""
        return bool(self._spare)

    def make_spare(self) -> None:
        """Make directories ahead, for who comes next. Never fails: who finds none makes his own."""
        try:
            while len(self._spare) < _SPARE:
                self._spare.append(self._make())
        except ImageCacheError as error:
            _log.warning("no directory made ahead", problem=str(error))

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
                    path.chmod(mode)  # whatever the umask is
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            self._staged.discard(directory.name)
            raise
        return directory


def _give(directory: Path, like: Path) -> None:
    """To the owner of ``like``."""
    found = like.stat()
    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(directory, found.st_uid, found.st_gid)
