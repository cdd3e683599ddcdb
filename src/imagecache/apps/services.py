"""What runs until it is told to stop: the snapshotter alone, and the agent around it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from imagecache.apps.agent import Agent, Duties
from imagecache.apps.holders import snapshotter_settings
from imagecache.apps.systemd import inherited_socket, notify
from imagecache.clock import Clock
from imagecache.host.mounter import KernelMounter
from imagecache.settings.table import Settings
from imagecache.snapshotter.server import serve
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.standalone.controller import Controller
from imagecache.store.store import Store


@dataclass(frozen=True, slots=True)
class LocalServices:
    """``cli.application.Services``."""

    store: Store
    settings: Settings
    clock: Clock
    mounter: KernelMounter
    standalone: Callable[[], Controller]

    async def snapshotter(self) -> None:
        settings = snapshotter_settings(self.settings)
        snapshotter = Snapshotter(self.settings.agent_root, self.store.provider, self.mounter, self.clock, settings)
        try:
            address = inherited_socket(os.environ) or self.settings.agent_socket
            await serve(snapshotter, address, ready=lambda: notify(os.environ, "READY=1"))
        finally:
            snapshotter.close()

    async def controller(self) -> None:
        from imagecache.apps.controller import ClusterController  # kopf and aiohttp: for this command alone

        await ClusterController(self.store, self.settings, self.clock).run()

    async def agent(self) -> None:
        agent = Agent(self.store, self.settings, self.clock, self.mounter, self._duties())
        await agent.run(inherited_socket(os.environ), ready=lambda: notify(os.environ, "READY=1"))

    def _duties(self) -> Duties:
        if not self.settings.node_name:
            from imagecache.apps.standalone_agent import StandaloneDuties

            return StandaloneDuties(self.standalone(), self.clock)
        from imagecache.apps.cluster_agent import ClusterDuties  # aiohttp: in a cluster alone

        return ClusterDuties(self.store, self.settings, self.clock)
