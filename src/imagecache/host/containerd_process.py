"""The containerd program: which process listens at a socket, its unit, its effective configuration, its version.

The kernel names the listening process (SO_PEERCRED), /proc its program, arguments and cgroup, and that program prints
its configuration. Every function returns nothing rather than a guess. It must not change anything.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from imagecache.toml import Table

_SECONDS = 10
"""Seconds for one connection, or one run of the program; a host under load takes one or two."""
_VERSION = re.compile(r"\bv?(\d+\.\d+\.\d+\S*)")
_LISTENS = 1 << 16
"""SO_ACCEPTCON in the flags of /proc/net/unix (<linux/net.h>)."""
_DEFAULT_CONFIG = Path("/etc/containerd/config.toml")


@dataclass(frozen=True, slots=True)
class Daemon:
    pid: int
    config: Path
    """Main configuration file that it was started with."""


def listening_at(address: Path) -> Daemon | None:
    """The process that listens at the socket; None when none does, or we may not look at it."""
    pid = _process_at(address)
    with contextlib.suppress(OSError):
        if pid:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            return Daemon(pid, Path(f"/proc/{pid}/cwd").readlink() / config_argument(words))
    return None


def _process_at(address: Path) -> int:
    """The id of the process that listens; 0 when none does, or it is in a PID namespace that we cannot see."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_SECONDS)  # one that hangs accepts nobody, and its queue fills
        probe.connect(str(address))
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, _, _ = struct.unpack("3i", credentials)
        return int(pid)
    return 0


def identity(address: Path) -> str:
    """Of the containerd that has made the socket, as every start does. Empty without one."""
    with contextlib.suppress(OSError):
        found = address.stat()
        return f"{found.st_ino}-{found.st_ctime_ns}"
    return ""


def unit_at(address: Path, root: Path = Path("/")) -> str:
    """The unit of the process that listens at the socket. Empty when none does, or it is in no unit of the system.

    The host service asks this. It may not trace processes, so nothing of /proc/PID is read that takes that right. Below
    another ``root``, where the host's filesystem is mounted, the process has no id that we can see: there we are root
    with every right, and the host's own /proc says who has the socket open.
    """
    processes = root / "proc"
    with contextlib.suppress(OSError):
        pid = _process_at(address) if root == Path("/") else _holder_at(address, processes)
        return unit_of((processes / str(pid) / "cgroup").read_text(errors="replace")) if pid else ""
    return ""


def _holder_at(address: Path, processes: Path) -> int:
    """The id, in this /proc, of a process that has the listening socket; 0 when none has."""
    names = {str(address), str(Path("/run") / address.relative_to("/var/run"))} if _is_old(address) else {str(address)}
    links = set()
    for line in (processes / "1/net/unix").read_text(errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)  # proc(5): Num RefCount Protocol Flags Type St Inode Path
        if len(fields) == 8 and fields[7] in names and int(fields[3], 16) & _LISTENS:
            links.add(f"socket:[{fields[6]}]")
    for process in sorted(processes.glob("[0-9]*"), key=lambda path: int(path.name)) if links else ():
        with contextlib.suppress(OSError):  # it has ended
            if any(_link(file) in links for file in (process / "fd").iterdir()) and process.name != "1":
                return int(process.name)
    return 0


def _is_old(address: Path) -> bool:
    return address.is_relative_to("/var/run")


def _link(path: Path) -> str:
    with contextlib.suppress(OSError):
        return str(path.readlink())
    return ""


def unit_of(cgroups: str) -> str:
    """The service in the text of a ``/proc/PID/cgroup``: of cgroup v2, or of systemd's own hierarchy with v1.

    Empty without one, and for the services of a user's own systemd. Source: cgroups(7), "/proc files".
    """
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        parts = PurePosixPath(path).parts if controllers in {"", "name=systemd"} else ()
        services = [part for part in parts if part.endswith(".service")]
        if services and not any(part.startswith("user@") for part in parts):
            return services[-1]  # inside a node that is a container itself, the ones before are of its host
    return ""


def config_argument(words: list[str]) -> Path:
    """The configuration file in containerd's command line."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in ("-c", "--config", "-config"):
            return Path(value if equals else following)
    return _DEFAULT_CONFIG


def effective_config(daemon: Daemon) -> Table | None:
    """All its files merged, with the defaults; None when it does not print them."""
    argv = [f"/proc/{daemon.pid}/exe", "--config", str(daemon.config), "config", "dump"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, tomllib.TOMLDecodeError):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=True)
        return tomllib.loads(done.stdout)
    return None


def config_problem(main: Path, program: str) -> str:
    """Why this containerd would not start with this main file; empty when it reads it, or does not run."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        argv = [program, "--config", str(main), "config", "dump"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
        return " ".join(done.stderr.split())[:500] if done.returncode else ""
    return ""


def installed_version(program: str, root: Path = Path("/")) -> str:
    """Of a containerd that is installed below ``root``; empty for another program, such as k3s, and for none."""
    if Path(program).name != "containerd":
        return ""
    inside = [] if root == Path("/") else ["chroot", str(root)]
    argv = [*inside, program, "--version"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        words = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
        match = _VERSION.search(words)
        return match[1] if match is not None else ""
    return ""
