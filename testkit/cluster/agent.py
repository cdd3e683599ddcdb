"""Our agent on a node of the cluster, as the host service that it is there: socket-activated, or alone in native mode.

``agent = AgentHost("proxy"); NodeSpec("2.4", services=[agent])``. It is there at every boot before containerd is, with
containerd's drop-in in place. Its settings are the caller's: environment variables, new ones at the next start.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testkit.cluster.node import Node
from testkit.peers.agent import COMMAND, AgentService
from testkit.peers.node import Mode
from testkit.peers.processes import Daemon
from testkit.peers.programs import PeerFailed

_SOCKET = "run/imagecache/snapshotter.sock"


class AgentHost:
    """A ``HostService`` for one node."""

    def __init__(self, mode: Mode = "proxy", settings: Mapping[str, str] | None = None) -> None:
        self.mode = mode
        self.settings = dict(settings or {})
        """``IMAGECACHE_...`` variables; a path is one on the node."""
        self._node: Node | None = None
        self._service: AgentService | None = None

    @property
    def node(self) -> Node:
        """Raises PeerFailed before the node's first boot."""
        if self._node is None:
            raise PeerFailed("the agent's node was not booted yet")
        return self._node

    @property
    def daemon(self) -> Daemon:
        return self._running().daemon

    def environ(self) -> dict[str, str]:
        """Of the agent and of ``command``; whatever is not here has the default that a real node has."""
        fixed = {"IMAGECACHE_MODE": self.mode, "IMAGECACHE_TRIM_DELAY": "0.5"}
        return {**self.node.environ(), **fixed, **self.settings}

    def command(self, *args: str | Path) -> str:
        """Output of ``imagecache`` with these arguments, run on the node. Raises PeerFailed."""
        return self.node.run(COMMAND, *args, env=self.environ())

    # of HostService

    def boot(self, node: Node) -> None:
        self._node = node
        self.command("containerd-config", "install")
        # the node's directory is in the arguments: what a killed run left is found by it
        listening = node.directory / _SOCKET
        self._service = AgentService(
            node.directory,
            listening if self.mode == "proxy" else None,
            ["--agent-socket", listening],
            prefix=[node.enter],
        )
        self._service.listen()
        self.start()

    def halt(self) -> None:
        if self._service is not None:
            self._service.close()
            self._service = None

    # its life

    @property
    def running(self) -> bool:
        return self._service is not None and self._service.running

    def _running(self) -> AgentService:
        if self._service is None:
            raise PeerFailed("the agent's node is off")
        return self._service

    def start(self) -> None:
        """Returns when containerd can talk to it. Raises PeerFailed with the end of its log."""
        self._running().start(self.environ())

    def stop(self) -> None:
        """Until ``start`` or the next boot. containerd waits on the socket; containers go on."""
        self._running().stop()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        self._running().kill()

    def restart(self) -> None:
        self.stop()
        self.start()
