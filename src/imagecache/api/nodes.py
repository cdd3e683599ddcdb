"""What one node says about the caches: the NodeImageCache object, and the counts that the ImageCache carries.

One cluster-scoped object per node, named like the Node and owned by it, written by the node's agent alone. Thousands of
nodes so never write into one ImageCache. It must not do I/O.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from imagecache.api.types import Condition

GROUP = "imagecache.dev"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "NodeImageCache"
NODE_SELECTOR = f"{GROUP}/node-selector"
"""Annotation of an ImageCache: a label selector; only nodes that match get the cache."""
PRIORITY = f"{GROUP}/priority"
"""Annotation of an ImageCache: a whole number; more is kept longer when space on a node is short. 0 without it."""
FINALIZER = f"{GROUP}/bundle"
"""On every ImageCache that the controller looks after: its bundle goes before the object does."""
NOT_READY_TAINT = f"{GROUP}/not-ready"
"""Taint of a new node until the caches that are meant for it are there."""

_SEPARATOR = "_"
_NODE = 63


class CacheState(enum.Enum):
    """Of one cache on one node."""

    PENDING = "Pending"
    """Not begun: waits for its turn, or for space."""
    FETCHING = "Fetching"
    READY = "Ready"
    FAILED = "Failed"


class NodeCache(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    """One cache on the node."""

    name: str
    """Of the ImageCache."""
    id: str
    """``status.imageCacheId`` that this state is about."""
    state: CacheState
    bytes_total: int = 0
    """Of the layer images that the cache needs, each counted once."""
    bytes_done: int = 0
    """Of them on this node."""
    reason: str = ""
    """CamelCase, when Pending or Failed."""
    message: str = ""


class NodeStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    mode: str = ""
    """``proxy``, ``native`` or ``prepull``."""
    capacity_bytes: int = 0
    """What the node may use for caches."""
    used_bytes: int = 0
    free_bytes: int = 0
    """Of the filesystem that holds them."""
    caches: tuple[NodeCache, ...] = ()
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeView:
    """What counts of a node: the labels of the Node, and its agent's report."""

    name: str
    labels: Mapping[str, str]
    status: NodeStatus


def holder(node: str, name: str) -> str:
    """What one of the node's lease holders is called in a store that nodes share.

    No name of a Node has the separator in it, and the store takes some 80 characters.
    """
    return f"{_short(node)}{_SEPARATOR}{name}"


def is_holder_of(node: str, holder_name: str) -> bool:
    """Whether ``holder`` has made this name for the node."""
    return holder_name.partition(_SEPARATOR)[0] == _short(node)


def _short(node: str) -> str:
    """At most ``_NODE`` characters, and different for different nodes."""
    return node if len(node) <= _NODE else f"{node[: _NODE - 13]}-{hashlib.sha256(node.encode()).hexdigest()[:12]}"


def parse_status(value: object) -> NodeStatus:
    """The status of an object as the API has it; an empty one when it is none that we know."""
    try:
        return msgspec.convert(value, NodeStatus)
    except msgspec.ValidationError:
        return NodeStatus()
