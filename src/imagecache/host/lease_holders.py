"""Names of this node's lease holders in its store.

Nodes that share a store must not release each other's layers, so there the names begin with the node's.
"""

from __future__ import annotations

from imagecache.api import nodes
from imagecache.settings.table import Settings


def is_shared(settings: Settings) -> bool:
    """Whether this is a node of a cluster whose nodes share the controller's store."""
    return bool(settings.node_name) and not settings.store_url


def holder(settings: Settings, name: str) -> str:
    return nodes.holder(settings.node_name, name) if is_shared(settings) else name
