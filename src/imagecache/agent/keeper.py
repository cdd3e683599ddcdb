"""The keeper: the container of proxy mode's DaemonSet that stays on a node, beside the agent that the host runs.

It is nobody, and of the host it has one directory, ``host.pod_directory.POD``: there it hands over what expires, and
asks the host to leave. Everything that changes the host has been done by the container before it. It must not decide
whether the node is left, and must not log or raise the content of a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagecache.agent.pod_credentials import INTERVAL, handed_over, text_of
from imagecache.errors import ImageCacheError
from imagecache.host.pod_directory import LEAVE, POD
from imagecache.host.service_files import HostFiles
from imagecache.kube.connection import SERVICE_ACCOUNT, in_cluster
from imagecache.settings.table import Settings
from imagecache.telemetry.health import HealthServer, problem_at
from imagecache.telemetry.log import get_logger
from imagecache.telemetry.metrics import Metrics

HEARD_SECONDS = 90.0
"""The host restarts its agent and containerd meanwhile; the Pod has 120 s in all (terminationGracePeriodSeconds)."""
_LOOK = 0.5
_SECRET = 0o600
_log = get_logger(__name__)


@dataclass(slots=True)
class Keeper:
    """``files`` see the host's directory at the host's own path."""

    settings: Settings
    """The Pod's."""
    environ: Mapping[str, str]
    files: HostFiles
    account: Path = SERVICE_ACCOUNT
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    problem: str = "the agent has not been looked at yet"

    async def run(self, health_address: str = "") -> None:
        """Hand over credentials and answer probes, until cancelled."""
        health = HealthServer(Metrics(), ready=lambda: self.problem)
        try:
            await health.start_when_free(health_address)
            while True:
                problem = ""
                try:
                    await asyncio.to_thread(self.write)
                except ImageCacheError as error:
                    problem = str(error)
                    _log.warning("credentials not handed over", reason=error.reason, problem=problem)
                self.problem = problem or await agent_problem(self.settings.metrics_address)
                await self.sleep(INTERVAL)
        finally:
            await health.stop()

    def write(self) -> None:
        """Write what has changed. Raises HostError, PrivilegeMissing, InvalidSetting."""
        if in_cluster(self.environ, self.account) is None:
            return
        for name, source in handed_over(self.settings, self.account).items():
            self.files.write(POD / name, text_of(source), _SECRET)

    async def ask_to_leave(self, seconds: float = HEARD_SECONDS) -> bool:
        """Ask the host to uninstall the agent; whether it has heard within these seconds.

        It has when the agent only serves containers, and others get containerd's own snapshotter. It goes on without us
        in any case. Raises HostError, PrivilegeMissing, StoreError when it could not even be asked.
        """
        problem: ImageCacheError | None = None
        asked = False
        for _ in range(int(seconds / _LOOK)):
            try:
                if not asked:
                    self.files.write(POD / LEAVE, "", _SECRET)
                    asked = True
            except ImageCacheError as error:  # nobody else asks, so it is tried again
                problem = error
            if asked and not self._is_asked():
                return True
            await self.sleep(_LOOK)
        if not asked and problem is not None:
            raise problem
        return False

    def _is_asked(self) -> bool:
        try:
            return self.files.at(POD / LEAVE).exists()
        except PermissionError:  # root has taken the directory back, and is removing it
            return False


async def agent_problem(address: str) -> str:
    """What the host's agent answers to a probe. Empty when it is ready, or serves no probe."""
    problem = await problem_at(address, "/readyz", seconds=INTERVAL) if address else ""
    return problem[:500]
