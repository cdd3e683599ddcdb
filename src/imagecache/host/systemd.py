"""systemd: units of the host, also from inside a container, and its protocol for services.

A socket that systemd holds outlives us: while the agent restarts, containerd waits instead of failing. It must not know
which units exist.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.errors import HostServiceFailed

_HOST = Path("/")
_BOOTED = Path("run/systemd/system")
"""sd_booted(3)."""
_NOT_LOADED = 5
"""Exit code of systemctl stop for a unit that does not exist (systemctl(1), "Exit status")."""
_PATH = re.compile(r"\bpath=(\S+) ;")
_SECONDS = 180.0
"""containerd may take its TimeoutStopSec of 90 s to stop, then starts."""
_ANSWERS = 60.0
"""Seconds that what a unit has started may take after the job is done."""
_STEP = 0.2
"""Seconds between two looks at what a unit has started."""
_FIRST_FD = 3
"""SD_LISTEN_FDS_START."""


@dataclass(frozen=True, slots=True)
class Systemd:
    """``host.service.ServiceManager``. ``root`` is where the host's filesystem is mounted for us."""

    root: Path = _HOST
    seconds: float = _SECONDS
    """The longest wait for one job."""

    def running(self) -> bool:
        return (self.root / _BOOTED).is_dir()

    def reload(self) -> None:
        self._systemctl("daemon-reload")

    def start(self, unit: str) -> None:
        self._systemctl("start", unit)

    def begin(self, unit: str) -> None:
        """Start it and do not wait: it may stop who asks for that."""
        self._systemctl("start", "--no-block", unit)

    def restart(self, unit: str, until: Callable[[], bool] | None = None) -> None:
        """Restart a unit.

        k3s' units have started when the API server answers, minutes after containerd or never, and other units before
        containerd does. So with ``until`` this returns once that is true, and at last after ``seconds``: whoever has
        given it asks again. Raises HostServiceFailed when the job has failed.
        """
        if until is None:
            self._systemctl("restart", unit)
            return
        deadline, done = time.monotonic() + self.seconds, False
        with self._started("restart", unit) as job:
            try:
                while not until() and time.monotonic() < deadline:
                    if job.poll():
                        raise _failed(("restart", unit), job.returncode, job.communicate()[0])
                    if job.returncode == 0 and not done:
                        deadline, done = min(deadline, time.monotonic() + _ANSWERS), True
                    time.sleep(_STEP)
            finally:
                job.kill()  # it only waits for the job, which is systemd's

    def stop(self, unit: str) -> None:
        self._systemctl("stop", unit, allowed=_NOT_LOADED)

    def program(self, unit: str) -> str:
        """Path of the program that a service starts (systemctl(1), "show"); empty when there is no such unit."""
        if not self.running():
            return ""
        found = _PATH.search(self._systemctl("show", "--property=ExecStart", "--value", unit))
        return found[1] if found is not None else ""

    def _systemctl(self, *words: str, allowed: int = 0) -> str:
        with self._started(*words) as job:
            try:
                said, _ = job.communicate(timeout=self.seconds)
            except subprocess.TimeoutExpired as error:
                job.kill()
                raise HostServiceFailed(f"systemctl {' '.join(words)}: {error}") from error
        if job.returncode not in {0, allowed}:
            raise _failed(words, job.returncode, said)
        return said

    def _started(self, *words: str) -> subprocess.Popen[str]:
        # in the host's mount namespace: systemctl talks to sockets below /run there, and does nothing in a chroot
        inside = [] if self.root == _HOST else ["nsenter", f"--mount={self.root}/proc/1/ns/mnt", "--"]
        try:
            return subprocess.Popen(
                [*inside, "systemctl", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        except OSError as error:
            raise HostServiceFailed(f"systemctl {' '.join(words)}: {error}") from error


def _failed(words: Sequence[str], code: int, said: str) -> HostServiceFailed:
    return HostServiceFailed(
        f"systemctl {' '.join(words)} ended with {code}: {' '.join(said.split())[:500]}",
        hint=f"journalctl --unit {words[-1]} on the host",
    )


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
