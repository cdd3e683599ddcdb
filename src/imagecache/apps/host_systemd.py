"""systemd of the host, also from inside a container that shares its processes, and work done inside the host's files.

It must not know which units there are.
"""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from imagecache.errors import HostServiceFailed, InternalError, PrivilegeMissing

_HOST = Path("/")
_BOOTED = Path("run/systemd/system")
"""sd_booted(3)."""
_NOT_LOADED = 5
"""Exit code of systemctl stop for a unit that is not there (systemctl(1), "Exit status")."""
_SECONDS = 180
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Systemd:
    """``host.service.ServiceManager``. ``root`` is where the host's filesystem is seen from here."""

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

    def _systemctl(self, *words: str, allowed: int = 0) -> None:
        """In the host's mount namespace, since systemd is asked through sockets there."""
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


def in_root(root: Path, work: Callable[[], _T]) -> _T:
    """The result of ``work`` done in a process whose / is ``root``, where the host's own paths and links are right.

    No module can be imported in there. Raises what the work raises, and PrivilegeMissing.
    """
    if root == _HOST:
        return work()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with open(writer, "wb") as out:  # noqa: PTH123 - a descriptor
            out.write(pickle.dumps(_outcome(root, work)))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as source:  # noqa: PTH123 - a descriptor
        data = source.read()
    os.waitpid(child, 0)
    if not data:
        raise InternalError("the process inside the host's files ended without a word")
    outcome: tuple[bool, object] = pickle.loads(data)  # noqa: S301 - our own child's
    succeeded, value = outcome
    if not succeeded:
        raise cast("BaseException", value)
    return cast("_T", value)


def _outcome(root: Path, work: Callable[[], object]) -> tuple[bool, object]:
    try:
        os.chroot(root)
        os.chdir("/")
    except PermissionError:
        return False, PrivilegeMissing(f"no permission to enter {root}", hint="run as root")
    try:
        return True, work()
    except Exception as error:  # noqa: BLE001 - raised again by the parent
        return False, error
