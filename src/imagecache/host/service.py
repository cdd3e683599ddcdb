"""The agent as a host service: install it on a host, uninstall it.

The order of the steps leaves a working host after a crash at any point, and the same call again finishes: containerd is
configured for our snapshotter only when that runs, and gets its old configuration back when it does not start with
ours. Images that another snapshotter has unpacked are looked at when containerd runs with ours; a mark on the disk,
``HostFiles.unchecked``, remembers that, since containerd may answer late or be restarted by somebody else. To
uninstall, containerd first stops using our snapshotter for new containers; the service is removed after the last
container that uses it. What ``host.config_guard`` does in between, it does with the parts that are here. It must not
know Kubernetes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from imagecache.errors import (
    ContainerdMisconfigured,
    ContainerdUnavailable,
    HostError,
    HostServiceFailed,
    ServiceManagerMissing,
)
from imagecache.host import systemd_units
from imagecache.host.config_changes import ConfigChanges, ContainerdFiles
from imagecache.host.containerd_config import Action, Change, ConfigState, Found
from imagecache.host.containerd_process import identity
from imagecache.host.pod_directory import KEEPER, POD, STATE, PodDirectory
from imagecache.host.service_files import CREDENTIALS, RESTARTING, HostFiles, Program
from imagecache.settings.choices import Mode

AGENT_STALE, CONTAINERD_STALE = STATE / "agent-stale", STATE / "containerd-stale"
"""Marks: files of the agent, or of containerd, have changed since it started. In /run, since a boot restarts both."""


class ServiceManager(Protocol):
    """systemd. All methods but ``running`` return when the job is done and raise HostServiceFailed."""

    def running(self) -> bool:
        """Whether it runs this host."""

    def reload(self) -> None:
        """Read the units again."""

    def start(self, unit: str) -> None: ...

    def restart(self, unit: str, until: Callable[[], bool] | None = None) -> None:
        """With ``until``, return once that is true, though the job is not done, or after minutes."""

    def stop(self, unit: str) -> None:
        """A no-op for a unit that does not exist."""


class ContainerdRecords(Protocol):
    """containerd's records of our snapshotter (``containerd.snapshotter_removal``). Raises ContainerdUnavailable."""

    def is_loaded(self) -> bool: ...

    def delete_image_records(self, *, ours: bool = False) -> Sequence[str]:
        """Of images that containerd's own snapshotter cannot unpack; with ``ours``, that our snapshotter cannot.

        With ``ours`` raises ContainerdMisconfigured when the files do not say which that is.
        """

    def in_use(self) -> int: ...

    def remove_snapshots(self) -> None: ...

    def release_held(self) -> None:
        """What we have unpacked into other snapshotters, and no image record keeps."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    mode: Mode
    config: str
    """Text of the agent's configuration file."""
    address: Path
    """containerd's socket."""
    owned: Sequence[Path] = ()
    """Directories that only this agent uses; an uninstall deletes them."""
    containerd_unit: str = systemd_units.CONTAINERD
    """Empty: no unit runs containerd, so that we cannot restart it."""
    configure: bool = True
    """Whether we may change containerd's configuration and restart it."""
    flags: str = ""
    """Flags of this ``imagecache host`` call, for the call that the timer of the host makes."""
    hand_over: Callable[[], None] = lambda: None
    """Writes what the agent has of its cluster into ``CREDENTIALS``. Called with the lock: an uninstall removes it."""
    kept: bool = False
    """A Pod keeps the agent: it hands over tokens in ``POD``, and asks there when the agent is to leave."""
    in_container: bool = False
    """We run in a container and cannot unmount what the agent has mounted on the host: the host's timer does it."""


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """What uninstall did."""

    changes: Sequence[Change]
    forgotten: Sequence[str] = ()
    """Images whose records were deleted, since only we have their layers; pods pull them again."""
    in_use: int = 0
    """Snapshots of ours that containers use."""
    done: bool = True
    """False: a timer on the host finishes the uninstall when the containers have ended."""


class HostService:
    """One host. ``program`` is called only when it is needed, since it takes seconds."""

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
        self.config = ConfigChanges(files, self._drop_in)
        self._settings = settings
        self._program = program
        self._executable, self._unchecked = files.program, files.unchecked
        self._pod = PodDirectory(files.root)

    # install

    def install(self, *, again: bool = True) -> list[Change]:
        """Raises ServiceManagerMissing when everything but the start is done, HostError and StoreError.

        ``again``: try also what containerd has refused before. For a person: whoever installs by itself, as often as
        it likes, must not restart containerd each time.
        """
        with self._files.locked():
            if self._settings.mode is Mode.NATIVE:
                return self._install_native(again=again)
            changes = self._install_files()
            if self._services.running():
                self._start_agent()  # before containerd: it must not start with a snapshotter that does not answer
            changes += self._configure_containerd(again=again)
            if not self._services.running():
                raise ServiceManagerMissing(
                    "everything is installed, but no systemd runs here to start it",
                    hint=(
                        f"hold the socket of {systemd_units.SOCKET}, run {self._executable} agent, "
                        "then restart containerd"
                    ),
                )
            self._run_with_ours()
            self._files.remove_old()  # last: the old program may have run until the restart
            return changes

    def _install_native(self, *, again: bool) -> list[Change]:
        if self._files.current():
            raise HostError(
                "the host service of proxy mode is still installed on this host",
                hint="it is removed after the last container that uses it: drain the node, or wait",
            )
        changes = self._configure_containerd(again=again)
        self._run_with_ours()
        return changes

    def _install_files(self) -> list[Change]:
        """The agent's files; an unfinished uninstall is cancelled."""
        kept = self._kept_units() if self._settings.kept else {}
        self._files.remove(self._files.asked)
        if self._services.running():
            self._services.stop(systemd_units.TIMER)
            # one that has just started waits for our lock, and would uninstall what we install
            self._services.stop(systemd_units.UNINSTALL)
        changes = self._remove_uninstall(but=kept)
        if kept:
            changes += self._files.write_units(kept, {})
            self._make_pod_directory()
        self._settings.hand_over()
        fresh = self._change_agent(
            lambda: [
                self._files.install_program(self._program()),
                self._files.configure(self._settings.config),
                *self._files.write_units(self._agent_units("agent"), systemd_units.WANTED),
            ]
        )
        if self._settings.configure:
            guards = systemd_units.guard_units(self._executable, self._settings.containerd_unit)
            fresh += self._files.write_units(guards, {})
        return [change for change in changes if change.action is not Action.UNCHANGED] + fresh

    def _agent_units(self, command: str) -> Mapping[str, str]:
        return systemd_units.agent_units(self._executable, command, containerd=self._settings.containerd_unit)

    def _kept_units(self) -> Mapping[str, str]:
        """For a Pod: its directory, and the service that the agent starts when the Pod asks for the uninstall."""
        leave = systemd_units.leave_units(
            self._executable, self._settings.flags, containerd=self._settings.containerd_unit
        )
        return {**leave, **systemd_units.mount_units(POD, KEEPER)}

    def _make_pod_directory(self) -> None:
        if self._services.running():
            self._services.reload()
            self._services.restart(systemd_units.MOUNT)
        self._pod.make()

    def _remove_uninstall(self, but: Mapping[str, str] = MappingProxyType({})) -> list[Change]:
        """The units that uninstall, and what starts them, but for these."""
        units = {**systemd_units.uninstall_units(self._executable), **self._kept_units()}
        return self._files.remove_units(_without(units, but), systemd_units.UNINSTALL_WANTED)

    def _change_agent(self, change: Callable[[], list[Change]]) -> list[Change]:
        """Change the agent's files, and mark that it must be restarted, even if we are killed in between."""
        stale = self._files.at(AGENT_STALE).exists()
        self._files.write(AGENT_STALE, "", 0o600)
        changes = change()
        if not stale and not _changed(changes):
            self._files.remove(AGENT_STALE)
        return changes

    def _start_agent(self) -> None:
        """Start the agent with its new files; returns when it is ready."""
        self._services.reload()
        self._services.start(systemd_units.SOCKET)
        if self._files.at(AGENT_STALE).exists():
            self._services.restart(systemd_units.SERVICE)
            self._files.remove(AGENT_STALE)
        else:
            self._services.start(systemd_units.SERVICE)

    # containerd

    def _configure_containerd(self, *, again: bool) -> list[Change]:
        if not self._settings.configure:
            return []
        if not again:
            found, _, ours = self.look()
            if not ours and self.config.is_refused(found):
                raise ContainerdMisconfigured(
                    "containerd did not run with our configuration before", hint="imagecache host install tries it anew"
                )
        unchecked = self.has_unchecked_images()
        if not unchecked:  # before any change: it must be there whoever starts containerd next
            self._files.write(self._unchecked, "", 0o600)
        changes = self._change_containerd(self._drop_in.install)
        if not unchecked and not _changed(changes):
            self._files.remove(self._unchecked)
        return changes

    def _change_containerd(self, change: Callable[[], Sequence[Change]]) -> list[Change]:
        """Change its configuration, if we may, and mark that it must be restarted."""
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
        self._files.write(CONTAINERD_STALE, self.containerd_now(), 0o600)

    def containerd_now(self) -> str:
        """Identity of the running containerd. Empty without one."""
        return identity(self._files.at(self._settings.address))

    def is_containerd_stale(self) -> bool:
        """Whether its configuration has changed since it started."""
        mark = self._files.at(CONTAINERD_STALE)
        return mark.exists() and mark.read_text(errors="replace") == self.containerd_now() != ""

    def _restart_containerd(self, found: Found | None = None) -> bool:
        """Restart it if needed. When it does not start with the new configuration, undo that and restart it again.

        ``found``: what is refused then; it cannot be looked at while containerd does not run.
        """
        if not self.is_containerd_stale():
            self._files.remove(CONTAINERD_STALE)
            return False
        if not self._services.running() or not self._settings.containerd_unit:
            raise ServiceManagerMissing(
                "containerd's configuration has changed, but no unit of systemd can be restarted for it",
                hint="restart containerd, then run the same command again",
            )
        before = self.containerd_now()

        def answers() -> bool:
            return self.containerd_now() not in {"", before} and self.is_loaded() is not None

        try:
            self._restart_now(answers)
        except HostServiceFailed as error:
            if found is not None:
                self.config.refuse(found)  # first: the second start may fail, too
            self._drop_in.undo()
            self._restart_now(answers)
            self._files.remove(CONTAINERD_STALE)
            raise HostServiceFailed(
                f"containerd did not start with our configuration and runs with its old one again: {error}",
                hint=error.hint,
            ) from error
        self._files.remove(CONTAINERD_STALE)
        return True

    def _restart_now(self, answers: Callable[[], bool]) -> None:
        """We have the lock, for which a repair before containerd's start would wait, and wait for that start."""
        self._files.write(RESTARTING, "", 0o600)
        try:
            self._services.restart(self._settings.containerd_unit, answers)
        finally:
            self._files.remove(RESTARTING)

    def _run_with_ours(self) -> None:
        """Restart containerd if needed, and look whether it has our part: whatever starts it may write its files anew.

        One that does not answer for long has not failed, but it is not restarted again either. Raises
        HostServiceFailed, ServiceManagerMissing, ContainerdMisconfigured when it runs without.
        """
        if not self._settings.configure:
            return
        found, ours = self._drop_in.look(), None
        restarted = self._restart_containerd(found)
        with contextlib.suppress(ContainerdUnavailable):
            found, _, ours = self.look()
        if ours:
            self.check_images()
        elif restarted:
            self.config.refuse(found)
        if ours is False:
            raise ContainerdMisconfigured(
                "containerd runs without our snapshotter, although its configuration had it",
                hint="whatever starts it writes that anew: import the drop-in in the template of that; else restart it",
            )

    # what ``host.config_guard`` is made of

    def look(self) -> tuple[Found, bool, bool | None]:
        """Containerd's files, whether the running containerd has read them, and whether it has our part of them.

        None: it does not answer. Raises ContainerdMisconfigured, PrivilegeMissing, StoreError.
        """
        found = self._drop_in.look()
        read = found.changed < self._containerd_started()
        ours = self.is_loaded()
        if ours is None:
            return found, False, None
        if self._settings.mode is Mode.NATIVE:  # containerd's own erofs snapshotter is loaded in any case
            lost = read and found.state in {ConfigState.ABSENT, ConfigState.NOT_IMPORTED}
            ours = ours and not lost and not self._was_seen_without_us()
        return found, read, ours

    def is_loaded(self) -> bool | None:
        """Whether the running containerd has the snapshotter, whatever its files say; None when it does not answer."""
        try:
            return self._records.is_loaded() if self.containerd_now() else None
        except ContainerdUnavailable:
            return None

    def _was_seen_without_us(self) -> bool:
        """Whether that was this start of containerd: files that were repaired since change nothing for it."""
        mark = self._files.at(self._unchecked)
        return mark.exists() and mark.read_text(errors="replace") == self.containerd_now() != ""

    def _containerd_started(self) -> float:
        """Seconds since the epoch, by its socket, which every start creates anew. 0 without one."""
        try:
            return self._files.at(self._settings.address).stat().st_ctime
        except OSError:
            return 0.0

    def forget_images(self) -> Sequence[str]:
        """Delete the records of images that containerd cannot start without us; returns their names.

        What is pulled from now on is unpacked elsewhere, and is looked at when it runs with us.
        """
        self._files.write(self._unchecked, self.containerd_now(), 0o600)
        return self._records.delete_image_records()

    def has_unchecked_images(self) -> bool:
        return self._files.at(self._unchecked).exists()

    def check_images(self) -> None:
        """Delete the records of images that containerd cannot start now that it runs with us, if there may be some.

        With ``discard_unpacked_layers``, an image that another snapshotter has unpacked has no blobs. While it is to be
        restarted for our files, nothing is decided: its default may be another one until then.
        """
        if self.is_containerd_stale():
            return
        if self.has_unchecked_images():
            self._records.delete_image_records(ours=True)
            self._files.remove(self._unchecked)
        self.config.accept()

    def restart_containerd(self) -> None:
        """Restart it with its present files. Raises as ``_run_with_ours``."""
        if not self.has_unchecked_images():
            self._files.write(self._unchecked, "", 0o600)
        self._mark_containerd()
        self._run_with_ours()

    # uninstall

    def uninstall(self) -> Uninstalled:
        """Raises ServiceManagerMissing when containerd must be restarted first and no systemd runs here."""
        with self._files.locked():
            if self._settings.mode is Mode.NATIVE:
                return self._uninstall_native()
            return self._uninstall() if self._files.current() else Uninstalled(())

    def _uninstall_native(self) -> Uninstalled:
        """Containers keep their mounts: those are containerd's."""
        if not self._settings.configure:
            return Uninstalled(())
        changes = self._change_containerd(self._drop_in.undo)
        self._restart_containerd()
        forgotten = self._records.delete_image_records()
        self._records.release_held()
        for mark in (self._files.refused, self._unchecked):
            self._files.remove(mark)
        self._files.remove_empty(self._files.directory)
        return Uninstalled(changes, forgotten)

    def _uninstall(self) -> Uninstalled:
        changes = self._serve_only()
        changes += self._change_containerd(partial(self._drop_in.install, serve_only=True))
        self._restart_containerd()
        self._pod.forget_request()  # it has been heard: the Pod waits for that
        self._files.remove(self._files.asked)
        if not self._settings.configure and self._records.is_loaded():
            return Uninstalled(changes, done=False)  # containerd's configuration still names us
        forgotten = self._records.delete_image_records()
        in_use = self._records.in_use()
        if in_use or self._settings.in_container:
            return Uninstalled(changes, forgotten, in_use, done=False)
        self._records.remove_snapshots()
        if self._settings.configure:
            changes += self._drop_in.undo()  # no restart: nothing uses our snapshotter any longer
        return Uninstalled([*changes, *self._remove_files()], forgotten)

    def _serve_only(self) -> list[Change]:
        """Start the timer that finishes the uninstall, then restart the service without its duties.

        In this order: the agent, which asks for the uninstall until it has begun, goes when the timer is there.
        """
        uninstall = systemd_units.uninstall_units(
            self._executable, self._settings.flags, containerd=self._settings.containerd_unit
        )
        changes = self._files.write_units(uninstall, systemd_units.UNINSTALL_WANTED)
        changes += self._files.remove_guards()
        serving = self._agent_units("snapshotter")
        changes += self._change_agent(lambda: self._files.write_units(serving, systemd_units.WANTED))
        if self._services.running():
            self._services.reload()
            self._services.start(systemd_units.TIMER)
            self._start_agent()
        return changes

    def _remove_files(self) -> list[Change]:
        """The agent's files and directories. The timer's units come last but one, so that it retries a killed run."""
        if self._services.running():
            self._services.stop(systemd_units.SERVICE)
            self._services.stop(systemd_units.SOCKET)
            self._services.stop(systemd_units.MOUNT)
        changes = [self._files.remove_tree(path) for path in (*self._settings.owned, CREDENTIALS)]
        self._pod.remove()
        changes.append(self._files.remove_config())
        changes += self._files.remove_units(systemd_units.agent_units(self._executable), systemd_units.WANTED)
        changes += self._files.remove_guards()
        for mark in (AGENT_STALE, CONTAINERD_STALE):
            self._files.remove(mark)
        changes += self._remove_uninstall()
        changes.append(self._files.remove_program())
        if self._services.running():
            self._services.reload()
            self._services.stop(systemd_units.TIMER)
        return changes


def _without(texts: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, str]:
    return {name: text for name, text in texts.items() if name not in names}


def _changed(changes: Sequence[Change]) -> bool:
    return any(change.action is not Action.UNCHANGED for change in changes)
