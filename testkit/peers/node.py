"""A node with imagecache on it: a real containerd, our agent as a process, our drop-in, one store.

What the demo, the benches and the end-to-end tests stand on. Everything is done by the ``imagecache`` command, as a
person would do it. It must not reach into the product's packages.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from testkit.peers.agent import COMMAND, AgentService
from testkit.peers.containerd import Containerd, Version
from testkit.peers.processes import Daemon, end_processes
from testkit.peers.programs import PeerFailed, containerd_24, environment

Mode = Literal["proxy", "native"]


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
        # a directory of ours is in the arguments, so that what a killed run left is found by them
        flags = ["--agent-root", self.environ["IMAGECACHE_AGENT_ROOT"]]
        listening = Path(self.environ["IMAGECACHE_AGENT_SOCKET"]) if mode == "proxy" else None
        self._service = AgentService(directory, listening, flags)

    @property
    def address(self) -> Path:
        return self.containerd.address

    @property
    def agent(self) -> Daemon:
        """The agent's process. Raises PeerFailed before ``start``."""
        return self._service.daemon

    def start(self) -> None:
        self.command("containerd-config", "install")
        self._service.listen()
        self.start_agent()
        self.containerd.start()

    def start_agent(self) -> None:
        """As systemd does it: the listening socket is ours, so that callers wait while no agent runs."""
        self._service.start(self.environ)

    def stop_agent(self) -> None:
        self._service.stop()

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

    def ctr(self, *args: str | Path) -> str:
        """The client of containerd itself, among CRI's images and containers."""
        return self.containerd.ctr("-n", "k8s.io", *args)

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

    def secret(self, logins: Mapping[str, tuple[str, str]]) -> None:
        """Write the Secret ``default:secret1``: user and password for each registry's host."""
        folder = Path(self.environ["IMAGECACHE_SECRETS"])
        folder.mkdir(exist_ok=True)
        auths = {host: {"username": user, "password": password} for host, (user, password) in logins.items()}
        document = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "secret1", "namespace": "default"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": json.dumps({"auths": auths})},
        }
        (folder / "secret1.json").write_text(json.dumps(document))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Containers first, then the agent, whose mounts nobody needs any more."""
        self.containerd.close()
        self._service.close()
        end_processes(self.directory)
