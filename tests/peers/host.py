"""A host service beside a real containerd: the real classes, with a service manager that runs the units' programs."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from imagecache.apps.containerd_config import HostContainerdFiles, containerd_version
from imagecache.apps.host_containerd import HostContainerdRecords
from imagecache.clock import Clock, SystemClock
from imagecache.host.config_guard import ConfigGuard
from imagecache.host.service import HostService, HostSettings, Uninstalled
from imagecache.host.service_files import CONFIG, UNITS, HostFiles
from imagecache.host.systemd_units import SERVICE, SOCKET, TIMER
from imagecache.settings.choices import Mode
from imagecache.settings.dump import config_text
from imagecache.settings.table import Settings
from imagecache.snapshotter.grpc_server import listen
from testkit.host_service import FakeProgram
from testkit.peers.agent import COMMAND
from testkit.peers.containerd import Containerd
from testkit.peers.processes import Daemon
from testkit.peers.programs import environment
from testkit.peers.readiness import Notifications

_ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass
class Manager:
    """A service manager that runs the units' programs as systemd does, for the two units that matter."""

    files: HostFiles
    containerd: Containerd
    directory: Path
    settings: Settings
    listener: socket.socket | None = None
    agent: Daemon | None = None
    timer: bool = False
    calls: list[str] = field(default_factory=list)

    def running(self) -> bool:
        return True

    def reload(self) -> None:
        self.calls.append("reload")

    def start(self, unit: str) -> None:
        if unit == SOCKET and self.listener is None:
            self.listener = listen(self.settings.agent_socket)
        elif unit == TIMER:
            self.timer = True
        elif unit == SERVICE and self.agent is None:
            self.restart(unit)

    def restart(self, unit: str, until: Callable[[], bool] | None = None) -> None:
        del until  # containerd answers when it was restarted
        self.calls.append(f"restart {unit}")
        if unit == SERVICE:
            self._run_agent()
        else:
            with ThreadPoolExecutor(1) as thread:  # it asks in an event loop of its own
                thread.submit(self.containerd.restart).result()

    def stop(self, unit: str) -> None:
        if unit == TIMER:
            self.timer = False
        elif unit == SERVICE and self.agent is not None:
            self.agent.stop()
            self.agent = None
        elif unit == SOCKET and self.listener is not None:
            self.listener.close()
            self.listener = None
            self.settings.agent_socket.unlink()

    def _run_agent(self) -> None:
        """ExecStart of the unit, until it notifies that it is ready."""
        if self.agent is not None:
            self.agent.stop()
        assert self.listener is not None
        text = self.files.at(UNITS / SERVICE).read_text()
        (command,) = re.findall(rf"^ExecStart={re.escape(str(self.files.program))} (\w+)$", text, re.MULTILINE)
        with Notifications(self.directory / "notify.sock") as notifications:
            env = {
                **environment(),
                "NOTIFY_SOCKET": str(notifications.path),
                "IMAGECACHE_CONFIG": str(self.files.at(CONFIG)),
            }
            fd = self.listener.fileno()
            python = str(COMMAND.parent / "python")
            argv = [python, "-c", _ACTIVATED, str(fd), COMMAND, command, f"--store={self.settings.store}"]
            self.agent = Daemon("agent", argv, self.directory, env, pass_fds=[fd])
            self.agent.start(notifications.ready)


@dataclass
class Host:
    """One containerd, and the host service beside it."""

    directory: Path
    containerd: Containerd
    settings: Settings = field(init=False)
    manager: Manager = field(init=False)

    def __post_init__(self) -> None:
        self.settings = Settings(
            store=self.directory / "store",
            address=self.containerd.address,
            mode=Mode.PROXY,
            agent_socket=self.directory / "agent.sock",
            agent_root=self.containerd.root / "io.containerd.snapshotter.v1.imagecache",
            containerd_config=self.containerd.config,
            hosts=self.containerd.directory / "certs.d",
            metrics_address="",
        )
        files = HostFiles(self.directory / "root")
        link = files.at(self.settings.address)
        link.parent.mkdir(parents=True)
        link.symlink_to(self.settings.address)
        files.at(UNITS).mkdir(parents=True)
        self.manager = Manager(files, self.containerd, self.directory, self.settings)

    def service(self) -> HostService:
        clock = SystemClock()
        drop_in = HostContainerdFiles(self.settings, lambda: containerd_version(self.settings, clock))
        settings = HostSettings(Mode.PROXY, config_text(self.settings), self.settings.address)
        records = HostContainerdRecords(drop_in, clock)
        return HostService(self.manager.files, self.manager, (drop_in, records), settings, FakeProgram)

    def guard(self, clock: Clock, *, repair: bool = True) -> ConfigGuard:
        return ConfigGuard(self.service, clock, repair=repair)

    async def install(self) -> None:
        await asyncio.to_thread(self.service().install)

    async def uninstall(self) -> Uninstalled:
        return await asyncio.to_thread(self.service().uninstall)

    def cache(self, *images: str) -> None:
        """Build an ImageCache of these images here, and attach it."""
        manifest = {"apiVersion": "eci.alibabacloud.com/v1", "kind": "ImageCache", "metadata": {"name": "c"}}
        path = self.directory / "cache.json"
        path.write_text(str(manifest | {"spec": {"images": list(images)}}).replace("'", '"'))
        env = {**environment(), "IMAGECACHE_CONFIG": str(self.manager.files.at(CONFIG))}
        subprocess.run([COMMAND, "create", "-f", path], env=env, check=True, capture_output=True, timeout=120)

    def close(self) -> None:
        self.containerd.close()
        for unit in (SERVICE, SOCKET):
            self.manager.stop(unit)
