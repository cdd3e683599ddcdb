"""The proxy snapshotter alone, wired: ``imagecache snapshotter``."""

from __future__ import annotations

import os

from imagecache.apps.holders import snapshotter_settings
from imagecache.apps.mount import mounter
from imagecache.apps.systemd import inherited_socket, notify
from imagecache.clock import Clock
from imagecache.settings.table import Settings
from imagecache.snapshotter.server import serve
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.store.store import Store


async def run(settings: Settings, clock: Clock) -> None:
    """Serve until cancelled."""
    provider = Store.open(settings.store, clock).provider
    snapshotter = Snapshotter(settings.agent_root, provider, mounter(), clock, snapshotter_settings(settings))
    try:
        address = inherited_socket(os.environ) or settings.agent_socket
        await serve(snapshotter, address, ready=lambda: notify(os.environ, "READY=1"))
    finally:
        snapshotter.close()
