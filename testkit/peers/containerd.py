"""A real containerd of its own: Debian's (1.6 or 1.7), or 2.4 built by ``./dev peers``.

It has its own root, state and socket below one directory. Stopping it leaves containers running, as on a real node;
leaving the context manager ends them, their shims, mounts and cgroups.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from uuid import uuid4

from grpclib.exceptions import GRPCError, StreamTerminatedError

from testkit.peers.containerd_config import NodeSettings, Paths, Surroundings, write_cni, write_hosts
from testkit.peers.cri import Cri
from testkit.peers.processes import Daemon, end_processes, unmount_below
from testkit.peers.programs import PeerFailed, containerd_24, environment, find, run
from testkit.peers.readiness import accepts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Version = Literal["system", "2.4"]
VERSIONS: tuple[Version, ...] = ("system", "2.4")
_LOGGER = """\
#!/bin/sh
# the shim asks for the end as soon as the container has ended, and waits: everything is written before
trap '' TERM
cat <&3 >>"$1" 5>&- & cat <&4 >>"$1" 5>&- &
exec 5>&-
wait
"""
"""A logging binary (containerd core/runtime/v2/README.md): it reads descriptors 3 and 4, and closes 5 when ready."""


class Containerd:
    """One containerd. A context manager; started on entry."""

    def __init__(  # noqa: PLR0913 - what differs between nodes
        self,
        directory: Path,
        version: Version = "system",
        *,
        sandbox_image: str = "localhost/pause:1",
        snapshotter: str = "overlayfs",
        drop_ins: Sequence[str] = (),
        hosts: Mapping[str, str] | None = None,
        inside: Surroundings | None = None,
        path: Sequence[Path] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """``drop_ins`` are TOML texts for conf.d, in order; ``hosts`` maps registry host to the URL that serves it.

        ``path`` are directories of helper programs before the system's, ``environ`` is set for containerd and ctr.
        """
        self.directory = directory
        self.version = version
        before = [*path, containerd_24()] if version == "2.4" else path
        self._environ = environment(before=before) | dict(environ or {})
        self._binary = self._find("containerd")
        self.major = 2 if version == "2.4" else _major(self._binary)
        self._settings = NodeSettings(inside.paths if inside else Paths.below(directory), sandbox_image, snapshotter)
        (directory / "conf.d").mkdir(parents=True, exist_ok=True)
        write_cni(directory, inside.cni) if inside else write_cni(directory)
        for host, url in (hosts or {}).items():
            write_hosts(directory, host, url)
        for number, text in enumerate(drop_ins):
            self.add_drop_in(f"{number:02}-test", text)
        config = directory / "config.toml"
        config.write_text(self._settings.render(self.major))
        argv: list[str | Path] = [self._binary, "--config", config]
        start = inside.daemon if inside else self._here
        self._daemon = start("containerd", argv, self._environ)

    def _here(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str]) -> Daemon:
        return Daemon(name, argv, self.directory, env)

    def _find(self, name: str) -> Path:
        """From the build's own directory for 2.4: Debian's program of the same name would be a different version."""
        if self.version == "system":
            return find(name)
        found = shutil.which(name, path=str(containerd_24()))
        return Path(found) if found else find(f"{name}-2.4")

    @property
    def address(self) -> Path:
        """The gRPC socket: CRI and containerd's own API."""
        return self._settings.paths.address

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def conf_d(self) -> Path:
        """Drop-ins; read when containerd starts."""
        return self.directory / "conf.d"

    @property
    def config(self) -> Path:
        return self.directory / "config.toml"

    @property
    def pid(self) -> int:
        return self._daemon.pid

    def add_drop_in(self, name: str, text: str) -> None:
        """Takes effect at the next start."""
        (self.conf_d / f"{name}.toml").write_text(text)

    # life

    def start(self) -> None:
        self._daemon.start(self._answers)

    def stop(self) -> None:
        """The daemon alone: containers go on."""
        self._daemon.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL to the daemon alone."""
        self._daemon.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything: containers, shims, daemon, mounts, cgroups."""
        cgroups = _cgroups(self.state)
        with contextlib.suppress(PeerFailed):
            self._remove_tasks()
        self._daemon.stop()
        end_processes(self.directory)
        unmount_below(self.directory)
        for path in cgroups:
            _remove_cgroup(path)

    def _remove_tasks(self) -> None:
        if not self._daemon.running:
            return
        for namespace in self.ctr("namespaces", "list", "-q").split():
            for task in self.ctr("-n", namespace, "task", "list", "-q").split():
                self.ctr("-n", namespace, "task", "delete", "--force", task)

    def _answers(self) -> bool:
        if not accepts(self.address):
            return False
        with ThreadPoolExecutor(1) as thread:  # the caller may be in an event loop of its own
            return thread.submit(asyncio.run, _cri_answers(self.address)).result()

    def log_tail(self) -> str:
        return self._daemon.tail()

    def ctr(self, *args: str | Path, seconds: float = 120) -> str:
        """Run containerd's own client of the same version; give ``-n k8s.io`` for CRI's images."""
        for word in ("run", "exec"):
            if word in args and "-d" not in args:
                return self._printed(args, args.index(word) + 1, seconds)
        return self._client(args, seconds)

    def _printed(self, args: Sequence[str | Path], at: int, seconds: float) -> str:
        """What a container prints, both streams, as a logger of its shim writes it.

        The client itself loses it now and then: when a container ends it closes the FIFOs, also those that its
        goroutines are still opening (containerd client/task.go, ``Delete``). And with ``file://`` the shim closes the
        file of both streams when the first has ended (cmd/containerd-shim-runc-v2/process/io.go, ``copyPipes``).
        """
        written = self.directory / f"printed-{uuid4().hex}"
        logger = self.directory / "logger"
        if not logger.exists():
            logger.write_text(_LOGGER)
            logger.chmod(0o755)
        try:
            self._client((*args[:at], "--log-uri", f"binary://{logger}?{written}", *args[at:]), seconds)
            return written.read_text()
        except PeerFailed as error:
            raise PeerFailed(f"{error}{written.read_text() if written.exists() else ''}") from error
        finally:
            written.unlink(missing_ok=True)

    def _client(self, args: Sequence[str | Path], seconds: float) -> str:
        argv: list[str | Path] = [self._find("ctr"), "--address", self.address, *args]
        return run(argv, env=self._environ, seconds=seconds)


async def _cri_answers(address: Path) -> bool:
    """CRI refuses every call until it has recovered its state."""
    async with Cri(address, seconds=5) as cri:
        try:
            await cri.version()
        except (GRPCError, OSError, TimeoutError, StreamTerminatedError):
            return False
    return True


def _major(binary: Path) -> int:
    """``containerd github.com/containerd/containerd 1.6.20~ds1 ...`` gives 1."""
    words = run([binary, "--version"]).split()
    return int(words[2].removeprefix("v").partition(".")[0])


def _cgroups(state: Path) -> list[str]:
    """Find the cgroups of the containers that have a bundle in ``state``, as their runtime specs name them."""
    found = []
    for spec in state.glob("io.containerd.runtime.v2.task/*/*/config.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(spec.read_bytes())["linux"]["cgroupsPath"])
    return found


def _remove_cgroup(path: str) -> None:
    base = Path("/sys/fs/cgroup")
    for folder in [base, *base.iterdir()]:
        with contextlib.suppress(OSError):
            (folder / path.lstrip("/")).rmdir()
