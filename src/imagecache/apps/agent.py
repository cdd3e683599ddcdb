"""The agent's process, wired: ``imagecache agent``, on one host or on a node of a cluster."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

from imagecache.apps.host_containerd import open_guard
from imagecache.apps.mount import mounter
from imagecache.apps.snapshotter import open_snapshotter
from imagecache.apps.store import open_node_store
from imagecache.clock import Clock
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.native import NativeUse, holder_of
from imagecache.host.lease_holders import holder
from imagecache.host.node_process import Duties, NativeLeases, NodeProcess
from imagecache.host.systemd import inherited_socket, notify
from imagecache.settings.choices import Mode
from imagecache.settings.table import Settings
from imagecache.store.store import Store
from imagecache.telemetry.health import HealthServer
from imagecache.telemetry.metrics import Metrics

_PROXY = frozenset({Mode.AUTO, Mode.PROXY})
_NATIVE = frozenset({Mode.AUTO, Mode.NATIVE})


async def run(settings: Settings, clock: Clock) -> None:
    """Until cancelled."""
    store, metrics = open_node_store(settings, clock), Metrics()
    containerd = ContainerdClient(settings.address, clock)
    duties = _duties(store, settings, clock)
    native = NativeLeases(NativeUse(containerd, store.root / "layers"), holder(settings, holder_of(settings.address)))
    process = NodeProcess(
        store=store,
        containerd=containerd,
        clock=clock,
        metrics=metrics,
        mode=settings.mode.value,
        duties=duties,
        agent_root=settings.agent_root,
        trim_delay=settings.trim_delay,
        snapshotter=(lambda observer: open_snapshotter(settings, store, mounter(settings, metrics), clock, observer))
        if settings.mode in _PROXY
        else None,
        native=native if settings.mode in _NATIVE else None,
        guard=open_guard(settings, clock, duties.forgotten) if settings.mode in _PROXY else None,
    )
    async with AsyncExitStack() as stack:
        health = HealthServer(metrics, ready=process.problem)
        stack.push_async_callback(health.stop)
        await health.start_when_free(settings.metrics_address)  # whoever has the port must not keep containers from us
        await stack.enter_async_context(containerd)
        address = inherited_socket(os.environ) or settings.agent_socket
        await process.run(address, ready=lambda: notify(os.environ, "READY=1"))


def _duties(store: Store, settings: Settings, clock: Clock) -> Duties:
    if not settings.node_name:
        from imagecache.apps.plain_host import plain_host_duties

        return plain_host_duties(store, settings, clock)
    from imagecache.apps.cluster_agent import ClusterDuties  # aiohttp: only in a cluster

    return ClusterDuties(store, settings, clock)
