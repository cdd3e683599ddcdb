"""What this node's lease holders are called in its store.

Nodes that share a store must not let go of each other's layers, so their names begin with the node's.
"""

from __future__ import annotations

from imagecache.api import nodes
from imagecache.settings.table import Settings
from imagecache.snapshotter.settings import DEFAULT, SnapshotterSettings


def holder(settings: Settings, name: str) -> str:
    return nodes.holder(settings.node_name, name) if settings.node_name and not settings.store_url else name


def snapshotter_settings(settings: Settings) -> SnapshotterSettings:
    return SnapshotterSettings(holder=holder(settings, DEFAULT.holder))
