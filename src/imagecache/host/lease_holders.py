"""Names of this node's lease holders in its store.

Nodes that share a store must not release each other's layers, so there the names begin with the node's.
"""

from __future__ import annotations

from imagecache.api import nodes
from imagecache.settings.table import Settings


def holder(settings: Settings, name: str) -> str:
    shared = settings.node_name and not settings.store_url
    return nodes.holder(settings.node_name, name) if shared else name
