"""``imagecache agent`` as a service manager runs it: whoever runs it holds the listening socket, not the agent.

So callers wait while no agent runs, through restarts and crashes. It must not configure containerd.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagecache.snapshotter.grpc_server import listen
from testkit.peers.processes import Daemon
from testkit.peers.programs import PeerFailed
from testkit.peers.readiness import Notifications

COMMAND = Path(sys.executable).with_name("imagecache")
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What the service manager does for a socket-activated service (sd_listen_fds(3))."""


class AgentService:
    """The socket, as a socket unit is, and the process. ``flags`` name a path below ``directory``: the process is ours.

    Without a ``socket_path`` there is the process alone, as in native mode. ``prefix`` are words before the program's.
    """

    def __init__(
        self,
        directory: Path,
        socket_path: Path | None,
        flags: Sequence[str | Path],
        prefix: Sequence[str | Path] = (),
    ) -> None:
        self._directory = directory
        self._socket_path = socket_path
        self._argv: list[str | Path] = [COMMAND, "agent", *flags]
        self._prefix = prefix
        self._listener: socket.socket | None = None
        self._daemon: Daemon | None = None

    @property
    def daemon(self) -> Daemon:
        """Raises PeerFailed before the first ``start``."""
        if self._daemon is None:
            raise PeerFailed("the agent was not started")
        return self._daemon

    @property
    def running(self) -> bool:
        return self._daemon is not None and self._daemon.running

    def listen(self) -> None:
        """From now on callers wait. Once per boot."""
        if self._socket_path is not None:
            self._listener = listen(self._socket_path)

    def start(self, environ: Mapping[str, str], *, seconds: float = 30) -> None:
        """Returns when the agent has notified its service manager that it is ready. Raises PeerFailed."""
        with Notifications(self._directory / "notify.sock") as notifications:
            self._daemon = self._make_daemon({**environ, "NOTIFY_SOCKET": str(notifications.path)})
            self._daemon.start(notifications.ready, seconds=seconds)

    def _make_daemon(self, environ: Mapping[str, str]) -> Daemon:
        if self._socket_path is None:
            return Daemon("agent", [*self._prefix, *self._argv], self._directory, environ)
        if self._listener is None:
            raise PeerFailed("nobody listens for the agent yet")
        fd = self._listener.fileno()
        argv = [*self._prefix, sys.executable, "-c", _ACTIVATE, str(fd), *self._argv]
        return Daemon("agent", argv, self._directory, environ, pass_fds=[fd])

    def stop(self) -> None:
        """The process alone: callers wait. A no-op when it does not run."""
        if self._daemon is not None:
            self._daemon.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it: callers wait."""
        if self._daemon is not None:
            self._daemon.kill()

    def close(self) -> None:
        """Process and socket. Idempotent."""
        self.stop()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
