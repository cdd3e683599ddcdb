"""Which image layers containers use now, found in containerd's snapshots. It must not change anything."""

from __future__ import annotations

from imagecache.containerd.api import Containerd


async def chains_in_use(containerd: Containerd, snapshotter: str) -> frozenset[str]:
    """Names of committed snapshots below those of containers: the chainIDs of their layers, of all namespaces.

    Raises ContainerdUnavailable, ContainerdMisconfigured.
    """
    found: set[str] = set()
    for namespace in await containerd.namespaces():
        parents: dict[str, str] = {}
        below: set[str] = set()
        async for info in containerd.session(namespace).snapshots.list(snapshotter):
            if info.committed:
                parents[info.name] = info.parent
            else:
                below.add(info.parent)
        while below:
            name = below.pop()
            if name in parents:
                found.add(name)
                below.add(parents.pop(name))  # popped: each snapshot is visited once
    return frozenset(found)
