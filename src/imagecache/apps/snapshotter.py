"""The proxy snapshotter, wired: alone (``imagecache snapshotter``), or for the agent."""

from __future__ import annotations

import os

from imagecache.apps.mount import mounter
from imagecache.apps.store import open_node_store, serve_remembered
from imagecache.clock import Clock
from imagecache.host.lease_holders import holder
from imagecache.host.mounter import KernelMounter
from imagecache.host.systemd import inherited_socket, notify
from imagecache.settings.choices import InodeNumbers
from imagecache.settings.table import Settings
from imagecache.snapshotter.dependencies import Observer
from imagecache.snapshotter.grpc_server import serve
from imagecache.snapshotter.settings import DEFAULT, SnapshotterSettings
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.store.store import Store


async def run(settings: Settings, clock: Clock) -> None:
    """Serve until cancelled."""
    snapshotter = open_snapshotter(settings, open_node_store(settings, clock), mounter(settings), clock)
    try:
        address = inherited_socket(os.environ) or settings.agent_socket
        await serve(snapshotter, address, ready=lambda: notify(os.environ, "READY=1"))
    finally:
        snapshotter.close()


def open_snapshotter(
    settings: Settings, store: Store, mounter: KernelMounter, clock: Clock, observer: Observer | None = None
) -> Snapshotter:
    """Raises StoreError, InvalidSetting."""
    serve_remembered(settings, store)
    own = SnapshotterSettings(
        holder=holder(settings, DEFAULT.holder), stable_inodes=settings.inode_numbers is InodeNumbers.STABLE
    )
    return Snapshotter(settings.agent_root, store.provider, mounter, clock, own, observer)
