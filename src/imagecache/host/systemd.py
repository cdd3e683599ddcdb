"""systemd: units of the host, also from inside a container, and its protocol for services.

A socket that systemd holds outlives us: while the agent restarts, containerd waits instead of failing. It must not know
which units exist.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from imagecache.errors import HostServiceFailed

_HOST = Path("/")
_BOOTED = Path("run/systemd/system")
"""sd_booted(3)."""
_NOT_LOADED = 5
"""Exit code of systemctl stop for a unit that does not exist (systemctl(1), "Exit status")."""
_PATH = re.compile(r"\bpath=(\S+) ;")
_SECONDS = 180
"""containerd may take its TimeoutStopSec of 90 s to stop, then starts."""
_FIRST_FD = 3
"""SD_LISTEN_FDS_START."""


@dataclass(frozen=True, slots=True)
class Systemd:
    """``host.service.ServiceManager``. ``root`` is where the host's filesystem is mounted for us."""

    root: Path = _HOST

    def running(self) -> bool:
        return (self.root / _BOOTED).is_dir()

    def reload(self) -> None:
        self._systemctl("daemon-reload")

    def start(self, unit: str) -> None:
        self._systemctl("start", unit)

    def restart(self, unit: str) -> None:
        self._systemctl("restart", unit)

    def stop(self, unit: str) -> None:
        self._systemctl("stop", unit, allowed=_NOT_LOADED)

    def program(self, unit: str) -> str:
        """Path of the program that a service starts (systemctl(1), "show"); empty when there is no such unit."""
        if not self.running():
            return ""
        found = _PATH.search(self._systemctl("show", "--property=ExecStart", "--value", unit))
        return found[1] if found is not None else ""

    def _systemctl(self, *words: str, allowed: int = 0) -> str:
        # in the host's mount namespace: systemctl talks to sockets below /run there
        inside = [] if self.root == _HOST else ["nsenter", "--target", "1", "--mount", "--"]
        try:
            done = subprocess.run(
                [*inside, "systemctl", *words], capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostServiceFailed(f"systemctl {' '.join(words)}: {error}") from error
        if done.returncode not in {0, allowed}:
            said = " ".join((done.stderr or done.stdout).split())
            raise HostServiceFailed(
                f"systemctl {' '.join(words)} ended with {done.returncode}: {said[:500]}",
                hint=f"journalctl --unit {words[-1]} on the host",
            )
        return done.stdout


def inherited_socket(environ: MutableMapping[str, str]) -> socket.socket | None:
    """The listening socket that was passed to this process (sd_listen_fds(3)), if any.

    The variables are removed from ``environ``, so that our children do not take it for theirs.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or int(count) < 1:
        return None
    listener = socket.socket(fileno=_FIRST_FD)
    listener.set_inheritable(False)
    return listener


def notify(environ: MutableMapping[str, str], state: str) -> None:
    """Send a state such as ``READY=1`` to the service manager (sd_notify(3)), if one waits for it."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        # "@" stands for the NUL byte of an abstract address
        sender.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
