"""The agent as a service of one host: install, uninstall, status, and what native mode's Pod does meanwhile.

``host.service`` changes the host; this adds the settings, what is known of the cluster and the agent's own probe. It
must not decide whether the agent is uninstalled.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from imagecache.agent.keeper import agent_problem
from imagecache.agent.pod_credentials import INTERVAL, PodCredentials, is_kept
from imagecache.clock import Clock, SystemClock
from imagecache.concurrency import run_all
from imagecache.errors import ImageCacheError, InvalidSetting
from imagecache.host.checks import Check, failed, ok, problem
from imagecache.host.config_changes import ContainerdFiles
from imagecache.host.config_guard import ConfigGuard
from imagecache.host.containerd_config import Change, ConfigState
from imagecache.host.containerd_process import unit_at
from imagecache.host.service import ContainerdRecords, HostService, HostSettings, ServiceManager, Uninstalled
from imagecache.host.service_files import DIRECTORY, HostFiles, Program
from imagecache.host.systemd_units import CONTAINERD, PARENTS
from imagecache.kube.object_files import ObjectFiles
from imagecache.settings.choices import Mode, Repair
from imagecache.settings.dump import config_text
from imagecache.settings.table import Settings
from imagecache.store.paths import StorePaths
from imagecache.telemetry.health import HealthServer
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

_DATABASE = "metadata.db"
_STALE = "containerd's configuration has changed since it started"
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HostOptions:
    """How to reach the host, and what may be changed on it."""

    root: Path = Path("/")
    """Where its filesystem is mounted for us."""
    configure: bool = True
    """Whether to write containerd's drop-in and restart containerd."""


@dataclass(slots=True)
class AgentInstallation:
    """The agent as a service of one host. ``install`` and ``uninstall`` are idempotent."""

    settings: Settings
    options: HostOptions
    files: HostFiles
    services: ServiceManager
    containerd: tuple[ContainerdFiles, ContainerdRecords]
    program: Callable[[], Program]
    credentials: PodCredentials
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _problem: str = "containerd has not been looked at yet"

    def __post_init__(self) -> None:
        """Raises InvalidSetting."""
        if self.settings.mode is Mode.PREPULL:
            raise InvalidSetting("prepull mode changes nothing on the host", hint="run imagecache agent alone")

    def install(self, *, again: bool = True) -> Sequence[Change]:
        """Install or upgrade. Raises ServiceManagerMissing when everything but the start is done.

        ``again``: see ``HostService.install``.
        """
        if self.settings.mode is Mode.NATIVE:
            return self._service().install(again=again)
        hand_over = partial(self.credentials.write, self.files)
        hand_over()  # first: the agent that is there goes on, whatever fails below
        settings = self.credentials.settings_on_host()
        if not self.options.configure:
            settings = dataclasses.replace(settings, repair=Repair.REPORT)
        service = self._service(config=config_text(settings), hand_over=hand_over, kept=is_kept(settings))
        return service.install(again=again)

    def uninstall(self) -> Uninstalled:
        """Uninstall; containers continue."""
        return self._service().uninstall()

    def status(self) -> Sequence[Check]:
        """Never raises for what it finds."""
        name = self.files.current()
        wrong = asyncio.run(agent_problem(self.settings.metrics_address))
        stale = self._service().is_containerd_stale()
        runs = self.services.running()
        return (
            _check("program", name or "not installed", "imagecache host install", bad=not name),
            _check("systemd", "runs" if runs else "does not run here", "", bad=not runs),
            _check("agent", wrong or "answers", "journalctl --unit imagecache-agent", bad=bool(wrong)),
            _check(
                "containerd",
                "must be restarted for its configuration" if stale else "has read its configuration",
                f"systemctl restart {self._unit()}",
                bad=stale,
            ),
            self._configuration(),
        )

    def _configuration(self) -> Check:
        """What containerd would read at its next start."""
        service, name = self._service(), "configuration"
        try:
            found, _, _ = service.look()
        except ImageCacheError as error:
            return failed("host", name, error)
        if found.state is ConfigState.OK:
            return ok("host", name, found.state.value)
        if found.state is ConfigState.ABSENT and self.settings.repair is Repair.REPORT:
            return ok("host", name, "left to you")
        refused = ", and containerd did not run with it" if service.config.is_refused(found) else ""
        return problem("host", name, found.state.value + refused, "imagecache host install")

    async def keep(self, health_address: str = "") -> None:
        """Look after containerd's configuration and answer probes, until cancelled: in native mode no agent does."""
        health = HealthServer(Metrics(), ready=lambda: self._problem)
        try:
            if health_address:
                await health.start(health_address)
            guard = ConfigGuard(
                self._service,
                self.clock,
                repair=self.settings.repair is Repair.AUTO,
                started=self._service().containerd_now,
            )
            works = [self._watch(guard)]
            if self.options.configure:
                works.append(guard.run())
            await run_all(*works)
        finally:
            await health.stop()

    async def _watch(self, guard: ConfigGuard) -> None:
        service = self._service()
        while True:
            self._problem = _STALE if service.is_containerd_stale() else guard.problem
            await self.sleep(INTERVAL)

    def _service(
        self, *, config: str = "", hand_over: Callable[[], None] = lambda: None, kept: bool = False
    ) -> HostService:
        settings = HostSettings(
            mode=self.settings.mode,
            config=config,
            hand_over=hand_over,
            kept=kept,
            address=self.settings.address,
            owned=self._owned_directories(),
            containerd_unit=self._unit(),
            configure=self.options.configure,
            flags=self._flags(),
            in_container=self.options.root != Path("/"),
        )
        return HostService(self.files, self.services, self.containerd, settings, self.program)

    def _flags(self) -> str:
        """For the call that the host's timer makes; that one may find no configuration file any longer."""
        directory = self.settings.host_directory
        flags = [f"--host-directory={directory}"] if directory != DIRECTORY else []
        return " ".join([*flags, *([] if self.options.configure else ["--leave-containerd"])])

    def _unit(self) -> str:
        """Containerd's. While it does not run: of k3s and RKE2, whose socket this is, the unit that boots."""
        address = self.settings.address
        booting = self.files.enabled(PARENTS) if "k3s" in address.parts else ""
        return self.settings.containerd_unit or unit_at(address, self.options.root) or booting or CONTAINERD

    def _owned_directories(self) -> tuple[Path, ...]:
        """The snapshotter's directory, and a store into which only this agent has fetched."""
        found = []
        if (self.files.at(self.settings.agent_root) / _DATABASE).is_file():
            found.append(self.settings.agent_root)
        store = self.files.at(self.settings.store)
        if self.settings.store_url and (store / "layers").is_dir() and not ObjectFiles(StorePaths(store)).caches():
            found.append(self.settings.store)
        return tuple(found)


def _check(name: str, detail: str, remedy: str, *, bad: bool) -> Check:
    return problem("host", name, detail, remedy) if bad else ok("host", name, detail)
