"""A node with imagecache on it: a real containerd, our agent as a process, our drop-in, one store.

What the demo, the benches and the end-to-end tests stand on. Everything is done by the ``imagecache`` command, as a
person would do it. It must not reach into the product's packages.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from imagecache.snapshotter.server import listen
from imagecache.testing.peers.containerd import Containerd, Version
from imagecache.testing.peers.processes import Daemon, end_processes
from imagecache.testing.peers.programs import PeerFailed, containerd_24, environment

Mode = Literal["proxy", "native"]
COMMAND = Path(sys.executable).with_name("imagecache")
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What the service manager does for a socket-activated service (sd_listen_fds(3))."""


class CachingNode:
    """One containerd with imagecache in ``proxy`` or ``native`` mode. A context manager; started on entry."""

    def __init__(  # noqa: PLR0913 - what differs between nodes
        self,
        directory: Path,
        version: Version = "system",
        mode: Mode = "proxy",
        *,
        sandbox_image: str,
        hosts: Mapping[str, str] | None = None,
        store: Path | None = None,
        trim_delay: float = 10.0,
    ) -> None:
        self.directory = directory
        self.mode = mode
        self.store = store or directory / "store"
        self.containerd = Containerd(directory / "containerd", version, sandbox_image=sandbox_image, hosts=hosts)
        before = [containerd_24()] if version == "2.4" else []
        self.environ = {
            **environment(before=before),
            "IMAGECACHE_STORE": str(self.store),
            "IMAGECACHE_ADDRESS": str(self.containerd.address),
            "IMAGECACHE_MODE": mode,
            "IMAGECACHE_AGENT_SOCKET": str(directory / "agent.sock"),
            "IMAGECACHE_AGENT_ROOT": str(self.containerd.root / "io.containerd.snapshotter.v1.imagecache"),
            "IMAGECACHE_CONTAINERD_CONFIG": str(self.containerd.config),
            "IMAGECACHE_HOSTS": str(self.containerd.directory / "certs.d"),
            "IMAGECACHE_SECRETS": str(directory / "secrets"),
            "IMAGECACHE_METRICS_ADDRESS": "",
            "IMAGECACHE_TRIM_DELAY": str(trim_delay),
        }
        directory.mkdir(parents=True, exist_ok=True)
        self._listener: socket.socket | None = None
        self._agent: Daemon | None = None

    @property
    def address(self) -> Path:
        return self.containerd.address

    @property
    def agent(self) -> Daemon:
        """The agent's process. Raises PeerFailed before ``start``."""
        if self._agent is None:
            raise PeerFailed("the node was not started")
        return self._agent

    def start(self) -> None:
        self.command("containerd-config", "install")
        self._agent = self._make_agent()
        self.start_agent()
        self.containerd.start()

    def _make_agent(self) -> Daemon:
        # a directory of ours is in the arguments, so that what a killed run left is found by them
        argv: list[str | Path] = [COMMAND, "agent", "--agent-root", self.environ["IMAGECACHE_AGENT_ROOT"]]
        if self.mode == "native":
            return Daemon("agent", argv, self.directory, self.environ)
        self._listener = listen(Path(self.environ["IMAGECACHE_AGENT_SOCKET"]))
        fd = self._listener.fileno()
        argv = [sys.executable, "-c", _ACTIVATE, str(fd), *argv]
        return Daemon("agent", argv, self.directory, self.environ, pass_fds=[fd])

    def start_agent(self) -> None:
        """As systemd does it: the listening socket is ours, so that callers wait while no agent runs."""
        ready = self.agent.log.stat().st_size if self.agent.log.exists() else 0
        self.agent.start(lambda: "agent is ready" in self.agent.log.read_text(errors="replace")[ready:])

    def stop_agent(self) -> None:
        self.agent.stop()

    def command(self, *args: str | Path, fails: bool = False) -> str:
        """Standard output of ``imagecache`` with these arguments. Raises PeerFailed when it fails unasked."""
        done = self.try_command(*args)
        if bool(done.returncode) != fails:
            raise PeerFailed(f"imagecache {args} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stderr if fails else done.stdout

    def try_command(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        words = [str(COMMAND), *map(str, args)]
        return subprocess.run(words, env=self.environ, capture_output=True, text=True, timeout=600, check=False)

    def start_command(self, *args: str | Path) -> subprocess.Popen[str]:
        """The command, still running, with its output as text."""
        words = [str(COMMAND), *map(str, args)]
        return subprocess.Popen(words, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def show(self, *args: str | Path) -> None:
        """Run ``imagecache`` with this terminal as its output."""
        subprocess.run([str(COMMAND), *map(str, args)], env=self.environ, timeout=600, check=True)

    def create(
        self, name: str, images: Sequence[str], *flags: str, annotations: Mapping[str, str] | None = None
    ) -> str:
        """Create an ImageCache from a manifest of these images."""
        return self.command("create", "-f", self.manifest(name, images, annotations=annotations), *flags)

    def manifest(
        self,
        name: str,
        images: Sequence[str],
        *,
        annotations: Mapping[str, str] | None = None,
        **spec: object,
    ) -> Path:
        document = {
            "apiVersion": "eci.alibabacloud.com/v1",
            "kind": "ImageCache",
            "metadata": {"name": name, "annotations": dict(annotations or {})},
            "spec": {"images": list(images), **spec},
        }
        path = self.directory / f"{name}.yaml"
        path.write_text(json.dumps(document, indent=2))
        return path

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Containers first, then the agent, whose mounts nobody needs any more."""
        self.containerd.close()
        if self._agent is not None:
            self._agent.stop()
        if self._listener is not None:
            self._listener.close()
        end_processes(self.directory)
