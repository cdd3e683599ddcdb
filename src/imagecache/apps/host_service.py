"""The host service, wired: systemd, containerd's files and records, the program that this process runs from.

``keep`` is what a DaemonSet's Pod runs: it installs, keeps credentials fresh, says how the agent is, and when it is
ended tells an upgrade from a removal. It must not decide what the parts decide.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import aiohttp

from imagecache.apps.attach import MODES
from imagecache.apps.containerd_config import containerd_version, installation
from imagecache.apps.daemonset import has_left, withdraw
from imagecache.apps.host_credentials import HostCredentials, config_text
from imagecache.apps.host_systemd import Systemd, in_root
from imagecache.cli.application import Check, ConfigChange, HostLeft, HostOptions, Severity
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.leave import Departure
from imagecache.containerd.modes import NATIVE_SNAPSHOTTER, Mode
from imagecache.errors import (
    ImageCacheError,
    InvalidSetting,
)
from imagecache.host.containerd_config import Action, Change
from imagecache.host.files import HostFiles
from imagecache.host.runtime_files import runtime_files
from imagecache.host.service import HostService, HostSettings
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


@dataclass(slots=True)
class LocalHostService:
    """``cli.application.HostTool``."""

    settings: Settings
    clock: Clock
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _problem: str = "the agent was not looked at yet"

    def install(self, options: HostOptions) -> Sequence[ConfigChange]:
        if self._mode() is Mode.PROXY:
            credentials = self._credentials(options)
            credentials.write()
            config = config_text(credentials.settings_on_host())
            return _reported(self._service(options, config).install())
        return _reported(self._service(options).install())

    def uninstall(self, options: HostOptions) -> HostLeft:
        left = self._service(options).uninstall()
        return HostLeft(_reported(left.changes), left.forgotten, left.in_use, left.done)

    def status(self, options: HostOptions) -> Sequence[Check]:
        files, systemd = HostFiles(options.root), Systemd(options.root)
        name = files.current()
        problem = asyncio.run(self._agent_problem())
        stale = self._service(options).is_containerd_stale()
        return (
            _check("program", name or "not installed", "imagecache host install", bad=not name),
            _check("systemd", "runs" if systemd.running() else "does not run here", "", bad=not systemd.running()),
            _check("agent", problem or "answers", "journalctl --unit imagecache-agent", bad=bool(problem)),
            _check(
                "containerd",
                "must be restarted for its configuration" if stale else "has read its configuration",
                f"systemctl restart {options.containerd_unit}",
                bad=stale,
            ),
        )

    async def keep(self, options: HostOptions) -> None:
        """Until cancelled."""
        metrics = Metrics()
        health = HealthServer(metrics, ready=lambda: self._problem)
        credentials, service = self._credentials(options), self._service(options)
        proxy = self._mode() is Mode.PROXY
        try:
            if options.health:
                await health.start(options.health)
            while True:
                stale = service.is_containerd_stale()
                self._problem = _STALE if stale else await self._agent_problem() if proxy else ""
                try:
                    if proxy:
                        await asyncio.to_thread(credentials.write)
                except ImageCacheError as error:
                    self._problem = str(error)
                    _log.warning("credentials not renewed", reason=error.reason, problem=str(error))
                await asyncio.sleep(_INTERVAL)
        finally:
            await health.stop()

    async def removed(self) -> bool:
        access = in_cluster(self.environ)
        if access is None or not self.settings.daemonset:
            return False
        async with KubeClient(access) as kube:
            return await has_left(kube, self.settings)

    async def withdraw(self) -> None:
        access = in_cluster(self.environ)
        if access is not None:
            async with KubeClient(access) as kube:
                await withdraw(kube, self.settings.node_name)

    def _service(self, options: HostOptions, config: str = "") -> HostService:
        files, mode = HostFiles(options.root), self._mode()
        drop_in = HostContainerdFiles(self.settings, self.clock, options.root)
        settings = HostSettings(
            mode=mode,
            config=config,
            address=self.settings.address,
            removed=self._removed_directories(files),
            containerd_unit=options.containerd_unit,
            configure=options.configure,
            flags=_flags(options),
            outside=options.root != Path("/"),
        )
        return HostService(
            files, Systemd(options.root), (drop_in, HostContainerdRecords(drop_in, mode)), settings, runtime_files
        )

    def _mode(self) -> Mode:
        if self.settings.mode is ModeSetting.PREPULL:
            raise InvalidSetting("prepull mode changes nothing on the host", hint="run imagecache agent alone")
        return MODES[self.settings.mode] or Mode.PROXY

    def _credentials(self, options: HostOptions) -> HostCredentials:
        return HostCredentials(HostFiles(options.root), self.settings, self.environ)

    def _removed_directories(self, files: HostFiles) -> tuple[Path, ...]:
        """The snapshotter's own, and a store into which only this agent has fetched."""
        found = []
        if (files.at(self.settings.agent_root) / _DATABASE).is_file():
            found.append(self.settings.agent_root)
        store = files.at(self.settings.store)
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


def _flags(options: HostOptions) -> str:
    flags = [] if options.configure else ["--leave-containerd"]
    if options.containerd_unit != HostOptions.containerd_unit:
        flags.append(f"--containerd-unit={options.containerd_unit}")
    return " ".join(flags)


def _reported(changes: Sequence[Change]) -> Sequence[ConfigChange]:
    return [
        ConfigChange(change.path, change.action.value) for change in changes if change.action is not Action.UNCHANGED
    ]


def _check(name: str, detail: str, remedy: str, *, bad: bool) -> Check:
    return Check("host", name, Severity.PROBLEM if bad else Severity.OK, detail, remedy if bad else "")
