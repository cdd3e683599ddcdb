"""A host that is a directory, whose installer can be killed before any change."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from imagecache.host.containerd_config import Change
from imagecache.host.service import HostService, HostSettings, Uninstalled
from imagecache.host.service_files import CONFIG, DIRECTORY, HEADING, UNITS, HostFiles
from imagecache.host.systemd_units import SERVICE, SOCKET, TIMER, UNINSTALL
from imagecache.settings.choices import Mode
from testkit.host_service import (
    ADDRESS,
    DROP_IN,
    FakeContainerdFiles,
    FakeProgram,
    FakeRecords,
    FakeServiceManager,
    make_socket,
    read,
)

CONTAINERD = "containerd.service"
WRITABLE = Path("/var/lib/containerd/ours")


class Crash(BaseException):
    """The process is killed here."""


class CountingFiles(HostFiles):
    """Dies before the change number ``dies_at``."""

    changes = 0
    dies_at = 0

    def _count(self) -> None:
        self.changes += 1
        if self.changes == self.dies_at:
            raise Crash

    def write(self, path: Path, text: str, mode: int) -> Change:
        self._count()
        return super().write(path, text, mode)

    def remove(self, path: Path) -> Change:
        self._count()
        return super().remove(path)

    def remove_tree(self, path: Path) -> Change:
        self._count()
        return super().remove_tree(path)

    def install_program(self, program: object) -> Change:
        self._count()
        return super().install_program(program)  # type: ignore[arg-type]


@dataclass
class Host:
    root: Path
    mode: Mode = Mode.PROXY
    directory: Path = DIRECTORY
    program: FakeProgram = field(default_factory=FakeProgram)
    files: CountingFiles = field(init=False)
    services: FakeServiceManager = field(init=False)
    records: FakeRecords = field(init=False)
    changes: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = CountingFiles(self.root, self.directory)
        self.services = FakeServiceManager(self.files, active={CONTAINERD: ""})
        self.records = FakeRecords(self.services)
        (self.root / "etc/systemd/system").mkdir(parents=True)
        (self.root / WRITABLE.relative_to("/")).mkdir(parents=True)
        make_socket(self.files)

    def service(self, **changes: object) -> HostService:
        settings = HostSettings(
            mode=self.mode,
            config='store = "/x"\n',
            address=ADDRESS,
            owned=(WRITABLE,),
            **{**self.changes, **changes},  # type: ignore[arg-type]
        )
        containerd = (FakeContainerdFiles(self.files), self.records)
        return HostService(self.files, self.services, containerd, settings, lambda: self.program)

    def install(self) -> list[Change]:
        return self.service().install()

    def uninstall(self) -> Uninstalled:
        return self.service().uninstall()

    @property
    def in_force(self) -> str:
        """The drop-in that containerd has read."""
        return self.services.active.get(CONTAINERD, "not running")

    def left(self) -> set[str]:
        """Files of ours, or that nobody else would have."""
        return {
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if (path.is_file() or path.is_symlink()) and path.name not in {"containerd.sock", "host.lock"}
        }

    def assert_installed(self) -> None:
        assert self.in_force == read(self.files, DROP_IN) == "ours"
        assert self.files.current() == self.program.name
        assert read(self.files, self.files.program) == f"#!{self.directory / self.program.name}\n"
        assert read(self.files, CONFIG) == HEADING + 'store = "/x"\n'
        assert self.services.active[SERVICE] == read(self.files, UNITS / SERVICE) + self.program.name
        assert f"{self.directory}/current/bin/imagecache agent" in self.services.active[SERVICE]
        assert SOCKET in self.services.active
        assert TIMER not in self.services.active
        assert self.files.at(UNITS / f"sockets.target.wants/{SOCKET}").readlink() == UNITS / SOCKET
        assert self.files.at(UNITS / f"multi-user.target.wants/{SERVICE}").readlink() == UNITS / SERVICE
        assert not read(self.files, UNITS / UNINSTALL)
        assert [path.name for path in self.files.at(self.directory).glob(".*")] == []

    def assert_gone(self) -> None:
        assert self.left() == set()
        assert self.in_force in {"", "serve only"}
        assert set(self.services.active) == {CONTAINERD}
        assert not self.files.at(DIRECTORY).exists()
        assert not self.files.at(WRITABLE).exists()
