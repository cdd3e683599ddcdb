"""The host service, wired: systemd, containerd's files and records, the program that this process runs from.

``keep`` is what a DaemonSet's Pod runs: it installs, keeps credentials fresh, says how the agent is, and when it is
ended tells an upgrade from a removal. It must not decide what the parts decide.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

from imagecache.agent.daemonset import has_left, withdraw
from imagecache.apps.attach import MODES
from imagecache.apps.containerd_config import containerd_version, installation
from imagecache.apps.host_credentials import HostCredentials, config_text
from imagecache.apps.host_systemd import Systemd, in_root
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.leave import Departure
from imagecache.containerd.modes import NATIVE_SNAPSHOTTER, Mode
from imagecache.errors import ImageCacheError, InvalidSetting
from imagecache.host.checks import Check, ok, problem
from imagecache.host.containerd_config import Change
from imagecache.host.files import HostFiles, Program
from imagecache.host.runtime_files import runtime_files
from imagecache.host.service import (
    ContainerdFiles,
    ContainerdRecords,
    HostService,
    HostSettings,
    Left,
    ServiceManager,
)
from imagecache.host.units import CONTAINERD
from imagecache.kube.api import Kube
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import in_cluster
from imagecache.settings.table import Mode as ModeSetting
from imagecache.settings.table import Settings
from imagecache.standalone.objects import ObjectFiles
from imagecache.store.paths import StorePaths
from imagecache.telemetry.health import HealthServer
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_INTERVAL = 5.0
"""Seconds between two looks at the agent and the credentials."""
_DATABASE = "metadata.db"
_STALE = "containerd's configuration is changed, and it was not restarted"
_T = TypeVar("_T")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HostContainerdFiles:
    """``host.service.ContainerdFiles``, in the host's own filesystem."""

    settings: Settings
    clock: Clock
    root: Path

    def install(self, *, leaving: bool = False) -> Sequence[Change]:
        version = self._version()
        return in_root(self.root, lambda: installation(self.settings, version, leaving=leaving).install())

    def undo(self) -> Sequence[Change]:
        version = self._version()
        return in_root(self.root, lambda: installation(self.settings, version).undo())

    def default_snapshotter(self) -> str:
        version = self._version()
        return in_root(self.root, lambda: installation(self.settings, version).default_snapshotter())

    def _version(self) -> str:
        return containerd_version(self.settings, self.clock, self.root)


@dataclass(frozen=True, slots=True)
class HostContainerdRecords:
    """``host.service.ContainerdRecords``, over the host's socket."""

    files: HostContainerdFiles
    mode: Mode

    def is_known(self) -> bool:
        return self._run(Departure.is_known)

    def forget_images(self) -> Sequence[str]:
        return self._run(Departure.forget_images)

    def in_use(self) -> int:
        return self._run(Departure.in_use)

    def remove_snapshots(self) -> None:
        self._run(Departure.remove_snapshots)

    def _run(self, work: Callable[[Departure], Awaitable[_T]]) -> _T:
        settings = self.files.settings
        ours = NATIVE_SNAPSHOTTER if self.mode is Mode.NATIVE else settings.snapshotter
        default = self.files.default_snapshotter()

        async def run() -> _T:
            address = self.files.root / settings.address.relative_to("/")
            async with ContainerdClient(address, self.files.clock) as containerd:
                return await work(Departure(containerd, ours, default))

        return asyncio.run(run())


@dataclass(frozen=True, slots=True)
class HostOptions:
    """How to reach the host, and what may be changed on it."""

    root: Path = Path("/")
    """Where its filesystem is seen from here."""
    containerd_unit: str = CONTAINERD
    configure: bool = True
    """Write containerd's drop-in, and restart it."""


@dataclass(slots=True)
class AgentHost:
    """A host that runs the agent as a service, seen from the command line or from a Pod."""

    settings: Settings
    options: HostOptions
    files: HostFiles
    services: ServiceManager
    containerd: tuple[ContainerdFiles, ContainerdRecords]
    program: Callable[[], Program]
    credentials: HostCredentials
    connect: Callable[[], AbstractAsyncContextManager[Kube] | None]
    """The API server of the Pod's cluster; None elsewhere."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _problem: str = "the agent was not looked at yet"

    def install(self) -> Sequence[Change]:
        """Install or upgrade. Idempotent. Raises ServiceManagerMissing when all is done but the start."""
        if installed_mode(self.settings) is Mode.PROXY:
            self.credentials.write()
            return self._service(config_text(self.credentials.settings_on_host())).install()
        return self._service().install()

    def uninstall(self) -> Left:
        """Idempotent; containers go on."""
        return self._service().uninstall()

    def status(self) -> Sequence[Check]:
        """Never raises for what it finds."""
        name = self.files.current()
        wrong = asyncio.run(self._agent_problem())
        stale = self._service().is_containerd_stale()
        runs = self.services.running()
        return (
            _check("program", name or "not installed", "imagecache host install", bad=not name),
            _check("systemd", "runs" if runs else "does not run here", "", bad=not runs),
            _check("agent", wrong or "answers", "journalctl --unit imagecache-agent", bad=bool(wrong)),
            _check(
                "containerd",
                "must be restarted for its configuration" if stale else "has read its configuration",
                f"systemctl restart {self.options.containerd_unit}",
                bad=stale,
            ),
        )

    async def keep(self, health_address: str = "") -> None:
        """Hand credentials to the host and answer probes, until cancelled."""
        health = HealthServer(Metrics(), ready=lambda: self._problem)
        service, proxy = self._service(), installed_mode(self.settings) is Mode.PROXY
        try:
            if health_address:
                await health.start(health_address)
            while True:
                stale = service.is_containerd_stale()
                self._problem = _STALE if stale else await self._agent_problem() if proxy else ""
                try:
                    if proxy:
                        await asyncio.to_thread(self.credentials.write)
                except ImageCacheError as error:
                    self._problem = str(error)
                    _log.warning("credentials not renewed", reason=error.reason, problem=str(error))
                await self.sleep(_INTERVAL)
        finally:
            await health.stop()

    async def removed(self) -> bool:
        """Whether our Pod ends for good. False when nobody can say."""
        connection = self.connect() if self.settings.daemonset else None
        if connection is None:
            return False
        async with connection as kube:
            return await has_left(kube, self.settings)

    async def withdraw(self) -> None:
        """Take back what the agent has reported of its Node. Never raises for an API that refuses."""
        connection = self.connect()
        if connection is not None:
            async with connection as kube:
                await withdraw(kube, self.settings.node_name)

    def _service(self, config: str = "") -> HostService:
        settings = HostSettings(
            mode=installed_mode(self.settings),
            config=config,
            address=self.settings.address,
            removed=self._removed_directories(),
            containerd_unit=self.options.containerd_unit,
            configure=self.options.configure,
            flags=_flags(self.options),
            outside=self.options.root != Path("/"),
        )
        return HostService(self.files, self.services, self.containerd, settings, self.program)

    def _removed_directories(self) -> tuple[Path, ...]:
        """The snapshotter's own, and a store into which only this agent has fetched."""
        found = []
        if (self.files.at(self.settings.agent_root) / _DATABASE).is_file():
            found.append(self.settings.agent_root)
        store = self.files.at(self.settings.store)
        if self.settings.store_url and (store / "layers").is_dir() and not list(ObjectFiles(StorePaths(store)).all()):
            found.append(self.settings.store)
        return tuple(found)

    async def _agent_problem(self) -> str:
        """What the agent's own probe says."""
        host, _, port = self.settings.metrics_address.rpartition(":")
        if not port:
            return ""
        url = f"http://{host if host not in {'', '0.0.0.0', '[::]'} else '127.0.0.1'}:{port}/readyz"  # noqa: S104
        try:
            timeout = aiohttp.ClientTimeout(total=_INTERVAL)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
                return "" if response.status == 200 else (await response.text()).strip()[:500]
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"the agent does not answer at {url}: {type(error).__name__}"


def open_host(
    settings: Settings, clock: Clock, options: HostOptions, environ: Mapping[str, str] = os.environ
) -> AgentHost:
    """Raises InvalidSetting."""
    files, drop_in = HostFiles(options.root), HostContainerdFiles(settings, clock, options.root)

    def connect() -> KubeClient | None:
        access = in_cluster(environ)
        return KubeClient(access) if access is not None else None

    return AgentHost(
        settings=settings,
        options=options,
        files=files,
        services=Systemd(options.root),
        containerd=(drop_in, HostContainerdRecords(drop_in, installed_mode(settings))),
        program=runtime_files,
        credentials=HostCredentials(files, settings, environ),
        connect=connect,
    )


def installed_mode(settings: Settings) -> Mode:
    """Raises InvalidSetting."""
    if settings.mode is ModeSetting.PREPULL:
        raise InvalidSetting("prepull mode changes nothing on the host", hint="run imagecache agent alone")
    return MODES[settings.mode] or Mode.PROXY


def _flags(options: HostOptions) -> str:
    flags = [] if options.configure else ["--leave-containerd"]
    if options.containerd_unit != CONTAINERD:
        flags.append(f"--containerd-unit={options.containerd_unit}")
    return " ".join(flags)


def _check(name: str, detail: str, remedy: str, *, bad: bool) -> Check:
    return problem("host", name, detail, remedy) if bad else ok("host", name, detail)
