"""The agent as a host service: put it on a host, take it away again.

Everything is done in an order in which a crash at any point leaves a host that works, and the same call again finishes
it: containerd learns of our snapshotter only when that runs, and gets its old configuration back when it does not come
up with ours. On the way out containerd first stops giving new containers our snapshotter; the service goes when the
last container that stands on it has gone. It must not know Kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from imagecache.errors import HostError, HostServiceFailed, ServiceManagerMissing
from imagecache.host import systemd_units
from imagecache.host.containerd_config import Action, Change
from imagecache.host.service_files import CREDENTIALS, PROGRAM, STATE, HostFiles, Program
from imagecache.settings.table import Mode

AGENT_STALE, CONTAINERD_STALE = STATE / "agent-stale", STATE / "containerd-stale"
"""What was changed on disk and is not in force yet. In /run: a boot makes everything fresh."""


class ServiceManager(Protocol):
    """systemd. All but ``running`` raise HostServiceFailed, and return when it is done."""

    def running(self) -> bool:
        """Whether this host is run by one."""

    def reload(self) -> None:
        """Read the units again."""

    def start(self, unit: str) -> None: ...

    def restart(self, unit: str) -> None: ...

    def stop(self, unit: str) -> None:
        """Also a unit that is not there."""


class ContainerdFiles(Protocol):
    """Our drop-in for containerd's configuration. Raises ContainerdMisconfigured, PrivilegeMissing, StoreError."""

    def install(self, *, serve_only: bool = False) -> Sequence[Change]:
        """``leaving``: new containers get containerd's own snapshotter, those that are there keep ours."""

    def undo(self) -> Sequence[Change]: ...


class ContainerdRecords(Protocol):
    """What our snapshotter has in containerd (``containerd.snapshotter_removal``). Raises ContainerdUnavailable."""

    def is_loaded(self) -> bool: ...

    def delete_image_records(self) -> Sequence[str]: ...

    def in_use(self) -> int: ...

    def remove_snapshots(self) -> None: ...


@dataclass(frozen=True, slots=True)
class HostSettings:
    mode: Mode
    config: str
    """Text of the agent's configuration file."""
    address: Path
    """containerd's socket."""
    removed: Sequence[Path] = ()
    """Directories of this host's agent alone, which go with it."""
    containerd_unit: str = systemd_units.CONTAINERD
    configure: bool = True
    """containerd's configuration is ours to change."""
    flags: str = ""
    """With which ``imagecache host`` was called, for the host's own call."""
    outside: bool = False
    """We run in a container. What the agent has mounted on the host is not ours to unmount: the host does it."""


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """What uninstall did."""

    changes: Sequence[Change]
    forgotten: Sequence[str] = ()
    """Images whose records were deleted, because only we have their layers."""
    in_use: int = 0
    """Snapshots that containers still have."""
    done: bool = True
    """False: the host finishes by itself, when the containers have gone."""


class HostService:
    """One host. ``program`` is made when it is needed: finding out takes seconds."""

    def __init__(
        self,
        files: HostFiles,
        services: ServiceManager,
        containerd: tuple[ContainerdFiles, ContainerdRecords],
        settings: HostSettings,
        program: Callable[[], Program],
    ) -> None:
        self._files = files
        self._services = services
        self._drop_in, self._records = containerd
        self._settings = settings
        self._program = program

    # in

    def install(self) -> list[Change]:
        """Raises ServiceManagerMissing when all is done but the start; HostError, HostServiceFailed and others."""
        with self._files.locked():
            if self._settings.mode is Mode.NATIVE:
                return self._install_native()
            changes = self._install_files()
            if self._services.running():
                self._start_agent()
            changes += self._change_containerd(self._drop_in.install)
            if not self._services.running():
                raise ServiceManagerMissing(
                    "everything is in place, and no systemd runs here to start it",
                    hint=f"hold the socket of {systemd_units.SOCKET}, run {PROGRAM} agent, then restart containerd",
                )
            self._restart_containerd()
            self._files.remove_old()
            return changes

    def _install_native(self) -> list[Change]:
        if self._files.current():
            raise HostError(
                "the host service of proxy mode is still on this host",
                hint="it goes when the containers that it serves have gone: drain the node, or wait",
            )
        changes = self._change_containerd(self._drop_in.install)
        self._restart_containerd()
        return changes

    def _install_files(self) -> list[Change]:
        """The agent's, with what a departure has left taken back."""
        if self._services.running():
            self._services.stop(systemd_units.TIMER)
        changes = self._files.remove_units(systemd_units.uninstall_units(PROGRAM), systemd_units.UNINSTALL_WANTED)
        fresh = self._change_agent(
            lambda: [
                self._files.place(self._program()),
                self._files.configure(self._settings.config),
                *self._files.write_units(self._agent_units("agent"), systemd_units.WANTED),
            ]
        )
        return [change for change in changes if change.action is not Action.UNCHANGED] + fresh

    def _agent_units(self, command: str) -> Mapping[str, str]:
        return systemd_units.agent_units(PROGRAM, command, containerd=self._settings.containerd_unit)

    def _change_agent(self, change: Callable[[], list[Change]]) -> list[Change]:
        """Change its files, and remember that it must be restarted, even if we are killed right behind the change."""
        stale = self._files.at(AGENT_STALE).exists()
        self._files.write(AGENT_STALE, "", 0o600)
        changes = change()
        if not stale and not _changed(changes):
            self._files.remove(AGENT_STALE)
        return changes

    def _start_agent(self) -> None:
        """Returns when it is ready."""
        self._services.reload()
        self._services.start(systemd_units.SOCKET)
        if self._files.at(AGENT_STALE).exists():
            self._services.restart(systemd_units.SERVICE)
            self._files.remove(AGENT_STALE)
        else:
            self._services.start(systemd_units.SERVICE)

    # containerd

    def _change_containerd(self, change: Callable[[], Sequence[Change]]) -> list[Change]:
        """Change its configuration, if that is ours to do, and remember that it must be restarted."""
        if not self._settings.configure:
            return []
        stale = self._files.at(CONTAINERD_STALE).exists()
        if not stale:
            self._mark_containerd()
        changes = list(change())
        if _changed(changes):
            self._mark_containerd()
        elif not stale:
            self._files.remove(CONTAINERD_STALE)
        return changes

    def _mark_containerd(self) -> None:
        self._files.write(CONTAINERD_STALE, self._containerd_now(), 0o600)

    def _containerd_now(self) -> str:
        """Which containerd runs, told by its socket, which every start makes anew; empty when none does."""
        try:
            found = self._files.at(self._settings.address).stat()
        except OSError:
            return ""
        return f"{found.st_ino}-{found.st_ctime_ns}"

    def is_containerd_stale(self) -> bool:
        """Its configuration was changed since it started."""
        mark = self._files.at(CONTAINERD_STALE)
        return mark.exists() and mark.read_text() == self._containerd_now() != ""

    def _restart_containerd(self) -> None:
        """If it needs to; with the configuration that it had, when it does not come up with the new one."""
        if not self.is_containerd_stale():
            self._files.remove(CONTAINERD_STALE)
            return
        if not self._services.running():
            raise ServiceManagerMissing(
                "containerd's configuration is changed, and no systemd runs here to restart it",
                hint="restart containerd, then run the same command again",
            )
        try:
            self._services.restart(self._settings.containerd_unit)
        except HostServiceFailed as error:
            self._drop_in.undo()
            self._services.restart(self._settings.containerd_unit)
            self._files.remove(CONTAINERD_STALE)
            raise HostServiceFailed(
                f"containerd did not start with our configuration, and has its own again: {error}", hint=error.hint
            ) from error
        self._files.remove(CONTAINERD_STALE)

    # out

    def uninstall(self) -> Uninstalled:
        """Raises ServiceManagerMissing when containerd must be restarted by somebody else first."""
        with self._files.locked():
            if self._settings.mode is Mode.NATIVE:
                return self._uninstall_native()
            return self._uninstall() if self._files.current() else Uninstalled(())

    def _uninstall_native(self) -> Uninstalled:
        """Containers keep what containerd has mounted for them."""
        if not self._settings.configure:
            return Uninstalled(())
        changes = self._change_containerd(self._drop_in.undo)
        self._restart_containerd()
        return Uninstalled(changes, self._records.delete_image_records())

    def _uninstall(self) -> Uninstalled:
        changes = self._stop_attaching()
        changes += self._change_containerd(partial(self._drop_in.install, serve_only=True))
        self._restart_containerd()
        if not self._settings.configure and self._records.is_loaded():
            return Uninstalled(changes, done=False)  # containerd's configuration still names us
        forgotten = self._records.delete_image_records()
        in_use = self._records.in_use()
        if in_use or self._settings.outside:
            return Uninstalled(changes, forgotten, in_use, done=False)
        self._records.remove_snapshots()
        if self._settings.configure:
            changes += self._drop_in.undo()  # nobody asks for our snapshotter any more: no restart is needed
        return Uninstalled([*changes, *self._remove_files()], forgotten)

    def _stop_attaching(self) -> list[Change]:
        """From here on the service does nothing but serve, and the host finishes without us."""
        serving = self._agent_units("snapshotter")
        changes = self._change_agent(lambda: self._files.write_units(serving, systemd_units.WANTED))
        leaving = systemd_units.uninstall_units(
            PROGRAM, self._settings.flags, containerd=self._settings.containerd_unit
        )
        changes += self._files.write_units(leaving, systemd_units.UNINSTALL_WANTED)
        if self._services.running():
            self._start_agent()
            self._services.start(systemd_units.TIMER)
        return changes

    def _remove_files(self) -> list[Change]:
        """The agent's, and what only it had; the units last but one, so that a killed run is done again."""
        if self._services.running():
            self._services.stop(systemd_units.SERVICE)
            self._services.stop(systemd_units.SOCKET)
        changes = [self._files.remove_tree(path) for path in (*self._settings.removed, CREDENTIALS)]
        changes.append(self._files.remove_config())
        changes += self._files.remove_units(systemd_units.agent_units(PROGRAM), systemd_units.WANTED)
        for mark in (AGENT_STALE, CONTAINERD_STALE):
            self._files.remove(mark)
        changes += self._files.remove_units(systemd_units.uninstall_units(PROGRAM), systemd_units.UNINSTALL_WANTED)
        changes.append(self._files.remove_program())
        if self._services.running():
            self._services.reload()
            self._services.stop(systemd_units.TIMER)
        return changes


def _changed(changes: Sequence[Change]) -> bool:
    return any(change.action is not Action.UNCHANGED for change in changes)
