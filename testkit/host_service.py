"""A host in a directory, for tests of the host service: service manager, containerd's files and records, program.

The containerd here reads its configuration when it starts, as the real one does, so a test sees a forgotten restart.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagecache.errors import ContainerdMisconfigured, ContainerdUnavailable, HostServiceFailed
from imagecache.host.containerd_config import Action, Change, ConfigState, Found
from imagecache.host.pod_directory import POD
from imagecache.host.service_files import HostFiles
from imagecache.host.systemd_units import MOUNT

ADDRESS = Path("/run/containerd/containerd.sock")
DROP_IN = Path("/etc/containerd/imagecache.toml")


CONTAINERDS = ("containerd.service", "k3s.service")
"""Units that run containerd."""


@dataclass
class FakeServiceManager:
    """``host.service.ServiceManager``. Units are files; ``active`` has what each has read at its start."""

    files: HostFiles
    systemd: bool = True
    failing: set[str] = field(default_factory=set)
    """Units that do not start while containerd's configuration has our drop-in."""
    broken: bool = False
    """Nothing starts any more."""
    rewriting: bool = False
    """Every start of containerd writes its configuration anew first, without our drop-in, as k3s does."""
    active: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def running(self) -> bool:
        return self.systemd

    def reload(self) -> None:
        self.calls.append("reload")

    def start(self, unit: str) -> None:
        if unit not in self.active:
            self.restart(unit)

    def restart(self, unit: str, until: Callable[[], bool] | None = None) -> None:
        del until  # whoever gives it asks again
        self.calls.append(f"restart {unit}")
        if self.broken or (unit in self.failing and self.files.at(DROP_IN).exists()):
            self.active.pop(unit, None)
            raise HostServiceFailed(f"{unit} did not start", hint=f"journalctl -u {unit}")
        if unit == MOUNT:
            shutil.rmtree(self.files.at(POD), ignore_errors=True)  # a filesystem that is mounted is empty
            self.files.at(POD).mkdir(parents=True)
        if unit in CONTAINERDS and self.rewriting:
            self.files.remove(DROP_IN)
        self.active[unit] = self._configuration(unit)
        if unit in CONTAINERDS:
            make_socket(self.files)

    def stop(self, unit: str) -> None:
        self.calls.append(f"stop {unit}")
        self.active.pop(unit, None)

    def _configuration(self, unit: str) -> str:
        """What the unit reads when it starts: its own text and program, or containerd's drop-in."""
        if unit in CONTAINERDS:
            return read(self.files, DROP_IN)
        return read(self.files, Path("/etc/systemd/system") / unit) + self.files.current()


def make_socket(files: HostFiles) -> None:
    """Create containerd's socket anew, as at every start."""
    path = files.at(ADDRESS)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.touch()
    fresh.rename(path)


def read(files: HostFiles, path: Path) -> str:
    """Text of the host's file; empty when it does not exist."""
    found = files.at(path)
    return found.read_text() if found.exists() else ""


@dataclass
class FakeContainerdFiles:
    """``host.config_changes.ContainerdFiles``: the text of the drop-in is its state."""

    files: HostFiles
    changed: float = 0.0
    """When the main file changed last."""
    fingerprint: str = "first"
    unreadable: bool = False
    """The administrator's part is no TOML."""

    def install(self, *, serve_only: bool = False) -> Sequence[Change]:
        return [self.files.write(DROP_IN, "serve only" if serve_only else "ours", 0o644)]

    def undo(self) -> Sequence[Change]:
        return [self.files.remove(DROP_IN)]

    def look(self) -> Found:
        if self.unreadable:
            raise ContainerdMisconfigured("config.toml: not TOML")
        states = {"": ConfigState.ABSENT, "ours": ConfigState.OK}
        state = states.get(read(self.files, DROP_IN), ConfigState.STALE)
        return Found(state, self.changed, self.fingerprint)


@dataclass
class FakeRecords:
    """``host.service.ContainerdRecords``."""

    services: FakeServiceManager
    images: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    """Images that were unpacked by another snapshotter, without blobs."""
    containers: int = 0
    snapshots: int = 3
    held: int = 1
    """Snapshots of others that we keep without a record."""
    answers: bool = True
    """Whether containerd does; k3s' unit may have started before that."""

    def is_loaded(self) -> bool:
        if not self.answers:
            raise ContainerdUnavailable("containerd does not answer")
        return any(self.services.active.get(unit) in {"ours", "serve only"} for unit in CONTAINERDS)

    def delete_image_records(self, *, ours: bool = False) -> Sequence[str]:
        assert self.answers
        if ours:
            assert "ours" in {self.services.active.get(unit, "") for unit in CONTAINERDS}
            self.services.calls.append("forget images of others")
            deleted, self.discarded = self.discarded, []
            return deleted
        assert self.services.active.get("containerd.service", "") != "ours", "the records would come back"
        self.services.calls.append("forget images")
        deleted, self.images = self.images, []
        return deleted

    def in_use(self) -> int:
        return self.containers

    def remove_snapshots(self) -> None:
        assert not self.containers
        assert "imagecache-agent.service" in self.services.active, "nobody answers for the snapshots"
        self.snapshots = 0
        self.release_held()

    def release_held(self) -> None:
        self.held = 0


@dataclass(frozen=True)
class FakeProgram:
    """``host.service_files.Program``."""

    name: str = "1.0-aaaa"

    def write(self, directory: Path, final: Path) -> None:
        (directory / "bin").mkdir(parents=True)
        (directory / "bin/imagecache").write_text(f"#!{final}\n")


def unchanged(changes: Sequence[Change]) -> bool:
    return all(change.action is Action.UNCHANGED for change in changes)
