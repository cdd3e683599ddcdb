"""A daemon that knows when it is ready, so that tests stop, kill and start it by one word each."""

from __future__ import annotations

from collections.abc import Callable

from testkit.peers.processes import Daemon


class Component:
    """One program of the cluster. Its log and pid are the daemon's."""

    def __init__(self, daemon: Daemon, ready: Callable[[], bool], *, seconds: float = 60) -> None:
        self.daemon = daemon
        self._ready = ready
        self._seconds = seconds

    @property
    def running(self) -> bool:
        return self.daemon.running

    def start(self) -> None:
        """Returns when it is ready. Raises PeerFailed with the end of its log."""
        self.daemon.start(self._ready, seconds=self._seconds)

    def stop(self) -> None:
        self.daemon.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        self.daemon.kill()

    def restart(self) -> None:
        self.stop()
        self.start()
