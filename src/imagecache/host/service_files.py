"""The files of the host service: program, configuration, units. Each change is atomic.

Paths are the host's own; ``root`` is where its filesystem is mounted for us. It must not start or stop anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from imagecache.errors import HostError, PrivilegeMissing
from imagecache.host import syscalls
from imagecache.host.containerd_config import Action, Change, replace_text
from imagecache.host.mountinfo import MOUNTINFO, parse
from imagecache.host.pod_directory import STATE
from imagecache.host.systemd_units import GUARD
from imagecache.oserrors import from_os_error
from imagecache.settings.table import Settings

UNITS = Path("/etc/systemd/system")
CONFIG = Path("/etc/imagecache/config.toml")
CREDENTIALS = STATE / "credentials"
RESTARTING = STATE / "containerd-restarting"
"""A mark: whoever has the lock waits until containerd has started, so that its start must not wait for the lock."""
DIRECTORY = Settings().host_directory
"""Where the program is unless a setting says otherwise."""
HEADING = "# Written by `imagecache host install`, and again at its next run.\n"
"""First line of a configuration file that we may overwrite."""
_CURRENT, _STAGED, _LOCK = "current", ".new-", "host.lock"
_LOOK = 0.1
"""Seconds between two looks at a lock that another process has."""


class Program(Protocol):
    """The agent's program with everything it needs; ``host.runtime_files.RuntimeFiles``."""

    @property
    def name(self) -> str:
        """Unique for its content."""

    def write(self, directory: Path, final: Path) -> None:
        """Write it into ``directory``, which is renamed to ``final`` before it runs. Raises OSError."""


class HostFiles:
    """Every method is idempotent and raises PrivilegeMissing, HostError, StoreError (NoSpace).

    ``directory`` is the host's: for the program, and for what must outlive a boot.
    """

    def __init__(self, root: Path = Path("/"), directory: Path = DIRECTORY) -> None:
        self.root = root
        self.directory = directory

    @property
    def program(self) -> Path:
        """The current one."""
        return self.directory / _CURRENT / "bin/imagecache"

    @property
    def refused(self) -> Path:
        """The fingerprint of a configuration with which containerd did not start, or did not load our snapshotter."""
        return self.directory / "refused"

    @property
    def unchecked(self) -> Path:
        """A mark: images may have been unpacked by another snapshotter, which is not the next start's default any more.

        Its text is the identity of a containerd that was seen without our part, if one was.
        """
        return self.directory / "images-unchecked"

    @property
    def asked(self) -> Path:
        """A mark: the Pod has asked for an uninstall that has not begun yet. It outlives a boot."""
        return self.directory / "leave-asked"

    def at(self, path: Path) -> Path:
        """Where the host's ``path`` is seen from this process."""
        return self.root / path.relative_to("/")

    @contextlib.contextmanager
    def locked(self, *, seconds: float | None = None) -> Iterator[bool]:
        """One process at a time on a host; the lock dies with its process.

        False: another has it after these seconds (None: wait as long as it takes), or waits for what we are a part of,
        the start of containerd.
        """
        with self._converted():
            self.at(STATE).mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.at(STATE) / _LOCK).open("w") as lock:
                if seconds is None:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                elif not self._locks_within(lock.fileno(), seconds):
                    yield False
                    return
                self.at(RESTARTING).unlink(missing_ok=True)  # of one that was killed
                yield True

    def _locks_within(self, lock: int, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if self.at(RESTARTING).exists() or time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK)

    # the program

    def current(self) -> str:
        """Name of the installed program; empty when none is installed."""
        link = self.at(self.directory) / _CURRENT
        return link.readlink().name if link.is_symlink() else ""

    def install_program(self, program: Program) -> Change:
        """Make ``program`` the current one. The one before stays: running processes may still read its files."""
        folder, link = self.at(self.directory), self.at(self.directory) / _CURRENT
        before = self.current()
        with self._converted():
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not (folder / program.name).exists():
                self._write(program, folder)
            if before == program.name:
                return Change(self.directory / _CURRENT, Action.UNCHANGED)
            fresh = folder / f".{_CURRENT}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(program.name)
            fresh.rename(link)
        return Change(self.directory / _CURRENT, Action.UPDATED if before else Action.CREATED)

    def _write(self, program: Program, folder: Path) -> None:
        """Write it beside its final directory, flush it to the disk, then rename it."""
        for leftover in folder.glob(f"{_STAGED}*"):  # of a run that was killed
            shutil.rmtree(leftover)
        staged = folder / f"{_STAGED}{program.name}"
        program.write(staged, self.directory / program.name)
        os.sync()  # thousands of files: one sync is faster than an fsync of each
        staged.rename(folder / program.name)

    def remove_old(self) -> None:
        """Every program but the current one."""
        for path in self._programs():
            if path.name != self.current():
                self.remove_tree(path)

    def remove_program(self) -> Change:
        """Every program, even when this process runs from it: open files stay until they are closed; and our marks.

        What others have in the directory stays. The link goes last: while it is there, an uninstall is not finished.
        """
        if not self.at(self.directory).exists():
            return Change(self.directory, Action.UNCHANGED)
        for path in self._programs():
            self.remove_tree(path)
        for path in (self.refused, self.unchecked):
            self.remove(path)
        with self._converted():
            for name in (f".{_CURRENT}", _CURRENT):
                (self.at(self.directory) / name).unlink(missing_ok=True)
        self.remove_empty(self.directory)
        return Change(self.directory, Action.REMOVED)

    def _programs(self) -> list[Path]:
        """Directories that ``install_program`` has made, also those that it has not finished."""
        with self._converted():
            return [
                self.directory / path.name
                for path in self.at(self.directory).iterdir()
                if not path.is_symlink() and (path.name.startswith(_STAGED) or (path / "bin/imagecache").is_file())
            ]

    # configuration and units

    def configure(self, text: str) -> Change:
        """Write the agent's configuration. Raises HostError when the file is not ours."""
        path = self.at(CONFIG)
        if path.exists() and not path.read_text(errors="replace").startswith(HEADING):
            raise HostError(
                f"{CONFIG} was not written by imagecache", hint="move it away; the installer writes the settings"
            )
        return self.write(CONFIG, HEADING + text, 0o600)

    def remove_config(self) -> Change:
        path = self.at(CONFIG)
        ours = path.exists() and path.read_text(errors="replace").startswith(HEADING)
        change = self.remove(CONFIG) if ours else Change(CONFIG, Action.UNCHANGED)
        self.remove_empty(CONFIG.parent)
        return change

    def write_units(self, texts: Mapping[str, str], wanted: Mapping[str, str]) -> list[Change]:
        """Unit files, and the links that ``systemctl enable`` makes for ``wanted`` in the targets' directories."""
        changes = [self.write(UNITS / name, text, 0o644) for name, text in texts.items()]
        for name, target in wanted.items():
            link = self.at(UNITS) / f"{target}.wants" / name
            with self._converted():
                link.parent.mkdir(mode=0o755, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(UNITS / name)
        return changes

    def enabled(self, units: Sequence[str]) -> str:
        """The first of these that every boot starts; empty when none is."""
        wants = self.at(UNITS) / "multi-user.target.wants"
        return next((unit for unit in units if (wants / unit).is_symlink()), "")

    def remove_guards(self) -> list[Change]:
        """Our drop-ins for containerd's unit, whichever that was when they were written."""
        changes = []
        for path in sorted(self.at(UNITS).glob(f"*.d/{GUARD}")):
            changes.append(self.remove(Path("/") / path.relative_to(self.root)))
            self.remove_empty(changes[-1].path.parent)
        return changes

    def remove_units(self, names: Mapping[str, str], wanted: Mapping[str, str]) -> list[Change]:
        with self._converted():
            for name, target in wanted.items():
                (self.at(UNITS) / f"{target}.wants" / name).unlink(missing_ok=True)
        return [self.remove(UNITS / name) for name in names]

    # any file

    def write(self, path: Path, text: str, mode: int) -> Change:
        target = self.at(path)
        with self._converted():
            existed = target.exists()
            if existed and target.read_text(errors="replace") == text and target.stat().st_mode & 0o7777 == mode:
                return Change(path, Action.UNCHANGED)
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_text(target, text, mode)
        return Change(path, Action.UPDATED if existed else Action.CREATED)

    def make_private(self, path: Path) -> None:
        """A directory that only its owner can enter."""
        with self._converted():
            self.at(path).mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove(self, path: Path) -> Change:
        target = self.at(path)
        with self._converted():
            if not target.exists():
                return Change(path, Action.UNCHANGED)
            target.unlink()
        return Change(path, Action.REMOVED)

    def remove_empty(self, path: Path) -> None:
        """Remove a directory, unless others have something there."""
        with contextlib.suppress(OSError):
            self.at(path).rmdir()

    def remove_tree(self, path: Path) -> Change:
        """Remove a directory with everything in it, after unmounting what is mounted there."""
        target = self.at(path)
        if not target.exists():
            return Change(path, Action.UNCHANGED)
        with self._converted():
            # in reverse order, as mounts may be stacked
            for mount in parse(MOUNTINFO.read_text(errors="surrogateescape"))[::-1]:
                if Path(mount.target).is_relative_to(target.resolve()):
                    syscalls.unmount(mount.target)
            shutil.rmtree(target)
        return Change(path, Action.REMOVED)

    @contextlib.contextmanager
    def _converted(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise PrivilegeMissing(f"no permission to change {error.filename}", hint="run as root") from error
        except OSError as error:
            raise from_os_error(error, error.filename or self.root) from error
