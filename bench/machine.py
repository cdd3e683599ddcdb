"""What figures were measured on: processor, memory, kernel, disk, load, and the version of everything that took part.

All of it is read, but for one thing: the disk's read-ahead, which decides about cold reads and differs between
machines, can be set for some time.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.host.mountinfo import Mount, mounted_at
from testkit.peers.programs import SYSTEM_PATHS, PeerFailed, checkout, containerd_24
from testkit.peers.workspace import started

NOTES = Path("/run")
"""Where the old read-ahead is written down. It outlives the workspace of a killed run, which the next run removes, and
goes with a restart, as the setting does."""
_NOTE = "imagecache-read-ahead-{}"
_PROGRAMS: Mapping[str, Sequence[str]] = {
    "containerd": ("containerd", "--version"),
    "containerd 2.4": (str(containerd_24() / "containerd"), "--version"),
    "runc": ("runc", "--version"),
    "docker-registry": ("docker-registry", "--version"),
    "igzip": ("igzip", "--version"),
    "mkfs.erofs": ("mkfs.erofs", "-V"),
}
_MODULE = re.compile(r"^\s*(?:require\s+)?(\S+)\s+(v\S+)")
_TOOL = re.compile(r"^\s*(?:tool\s+)?([^\s()]+/[^\s()]+)\s*$")


def facts(directory: Path, programs: Mapping[str, Sequence[str]] | None = None) -> dict[str, object]:
    """All of it, for JSON. ``directory`` is on the disk that is measured; ``programs`` are asked for versions too."""
    return {
        "time": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
        "cpu": _field("/proc/cpuinfo", "model name"),
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "release": platform.freedesktop_os_release().get("PRETTY_NAME"),
        "load": list(os.getloadavg()),
        "disk": Disk.of(directory).facts(),
        "python": sys.version.split()[0],
        "imagecache": source(checkout()),
        "programs": {name: version(argv) for name, argv in {**_PROGRAMS, **(programs or {})}.items()},
        "go_modules": {path.parent.name: go_modules(path) for path in sorted(checkout().glob("tools/*-go/go.mod"))},
    }


def _field(path: str, name: str) -> str | None:
    """Of a file of ``name : value`` lines, the first."""
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


# versions


def version(argv: Sequence[str]) -> str | None:
    """The first line that the program prints about itself; None when it is not installed."""
    program = shutil.which(argv[0], path=os.pathsep.join(SYSTEM_PATHS))
    if program is None:
        return None
    done = subprocess.run([program, *argv[1:]], capture_output=True, text=True, check=False, timeout=30)
    lines = (done.stdout + done.stderr).splitlines()  # some print it to the one, some to the other
    return next((line.strip() for line in lines if line.strip()), "")


def source(tree: Path) -> dict[str, object]:
    """The commit of a checkout, and whether files differ from it; nulls where it is none."""

    def git(*words: str) -> str | None:
        argv = ["git", "-c", f"safe.directory={tree}", "-C", str(tree), *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        return None if done.returncode else done.stdout.strip()

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def go_modules(file: Path) -> dict[str, str]:
    """``go``, and of a go.mod the version of each module that has one of its tools, or is required by its own code."""
    versions: dict[str, str] = {}
    direct: set[str] = {"go"}
    tools: list[str] = []
    for line in file.read_text().splitlines():
        text, _, comment = line.partition("//")
        if text.startswith("go "):
            versions["go"] = text.split()[1]
        elif match := _MODULE.match(text):
            versions[match[1]] = match[2]
            direct |= {match[1]} if comment.strip() != "indirect" else set()
        elif match := _TOOL.match(text):
            tools.append(match[1])
    wanted = direct | {_module_of(tool, versions) for tool in tools}
    return {name: text for name, text in versions.items() if name in wanted}


def _module_of(package: str, modules: Mapping[str, str]) -> str | None:
    """The module with the longest path that the package is in."""
    inside = (module for module in modules if f"{package}/".startswith(f"{module}/"))
    return max(inside, key=len, default=None)


# the disk


@dataclass(frozen=True, slots=True)
class Disk:
    """The filesystem of a directory, and the block device below it."""

    mount: Mount
    free_bytes: int
    queue: Path | None
    """The device's settings in sysfs; None for a filesystem without a block device."""

    @classmethod
    def of(cls, directory: Path) -> Disk:
        """Raises PeerFailed when /proc has no mount for it."""
        real = directory.resolve()
        mount = next((found for path in (real, *real.parents) if (found := mounted_at(path))), None)
        if mount is None:
            raise PeerFailed(f"{directory}: /proc/self/mountinfo has no mount for it")
        return cls(mount, shutil.disk_usage(real).free, _queue(Path(mount.source)))

    @property
    def device(self) -> str | None:
        return self.queue.parent.name if self.queue else None

    @property
    def read_ahead_kib(self) -> int | None:
        return int((self.queue / "read_ahead_kb").read_text()) if self.queue else None

    def facts(self) -> dict[str, object]:
        return {
            "device": self.device,
            "read_ahead_kib": self.read_ahead_kib,
            "rotational": self._setting("rotational") == "1" if self.queue else None,
            "scheduler": self._setting("scheduler"),
            "filesystem": self.mount.kind,
            "mount_options": f"{self.mount.options} {self.mount.data}",
            "free_bytes": self.free_bytes,
        }

    def _setting(self, name: str) -> str | None:
        return (self.queue / name).read_text().strip() if self.queue else None


def _queue(source: Path) -> Path | None:
    """``queue`` of the device, or of the disk that it is a partition of."""
    if not source.is_block_device():
        return None
    number = source.stat().st_rdev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    whole = device.parent if (device / "partition").exists() else device
    return whole / "queue"


@contextlib.contextmanager
def read_ahead(disk: Disk, kib: int, notes: Path = NOTES) -> Iterator[None]:
    """Set the disk's read-ahead, and restore it: afterwards, or at the next ``restore`` if this process is killed.

    It holds for files of the disk. A file-backed EROFS has 128 KiB of its own, a loop device what
    ``/sys/block/loop*/queue`` says.

    Raises PeerFailed when the disk has none, another run has set it, or the kernel takes another value.
    """
    restore(notes)
    if disk.queue is None:
        raise PeerFailed(f"{disk.mount.target} ({disk.mount.kind}) has no block device with a read-ahead")
    setting = disk.queue / "read_ahead_kb"
    note = notes / _NOTE.format(disk.device)
    old = setting.read_text().strip()
    try:
        with note.open("x") as file:
            file.write(f"{setting} {old} {os.getpid()} {started(os.getpid())}")
    except FileExistsError as error:
        raise PeerFailed(f"the read-ahead of {disk.device} is set by another run, says {note}") from error
    try:
        setting.write_text(str(kib))
        if int(setting.read_text()) != kib:
            raise PeerFailed(f"the kernel makes {setting.read_text().strip()} KiB of {kib} KiB of read-ahead")
        yield
    finally:
        setting.write_text(old)
        note.unlink()


def restore(notes: Path = NOTES) -> list[Path]:
    """What runs that were killed have left set; returns the settings."""
    found = []
    for note in notes.glob(_NOTE.format("*")):
        match note.read_text().split():
            case [setting, old, pid, since]:
                if started(int(pid)) == since:
                    continue
                with contextlib.suppress(FileNotFoundError):  # the disk has gone
                    Path(setting).write_text(old)
                found.append(Path(setting))
        note.unlink()
    return found
