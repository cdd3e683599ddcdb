"""The NodeImageCache object: what one node reports about its caches; and our names on other objects.

There is one cluster-scoped object per node, named like the Node, owned by it, and written by the node's agent alone: so
thousands of nodes never write to one ImageCache. It must not do I/O.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from imagecache.api import annotations as known
from imagecache.api.types import Condition
from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import normalise
from imagecache.written import listed, refusal, trimmed

GROUP = "imagecache.dev"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "NodeImageCache"
NODE_SELECTOR = f"{GROUP}/node-selector"
"""Annotation of an ImageCache: a label selector; only nodes that match get the cache."""
PRIORITY = f"{GROUP}/priority"
"""Annotation of an ImageCache: a whole number, default 0; more is kept longer when space on a node is short."""
ALSO_UNPACK = f"{GROUP}/also-unpack"
"""Annotation of an ImageCache: as the setting ``also_unpack``, which it replaces for this cache."""
DIRECT_IO = f"{GROUP}/direct-io"
"""Annotation of an ImageCache: ``true``: nodes mount its layers so that containers can read with O_DIRECT."""
REFRESH = f"{GROUP}/refresh"
"""Annotation of an ImageCache: with another value than before, the same images are built anew (``api.refresh``)."""
REFRESH_SCHEDULE = f"{GROUP}/refresh-schedule"
"""Annotation of an ImageCache: when that is done by itself, in the five fields of cron, UTC."""
ELIMINATION = f"{GROUP}/elimination-strategy"
"""Annotation of an ImageCache: ``LRU``: it may be deleted where there is no room for another one."""
CREATED_FOR = f"{GROUP}/created-for"
"""Annotation of an ImageCache that a pod had made for it: namespace and uid of that pod."""
OS_LABEL, ARCHITECTURE_LABEL = "kubernetes.io/os", "kubernetes.io/arch"
"""Labels of a Node, which kubelet sets (k8s.io/api, well-known labels)."""
_OURS = frozenset(
    {NODE_SELECTOR, PRIORITY, ALSO_UNPACK, DIRECT_IO, REFRESH, REFRESH_SCHEDULE, ELIMINATION, CREATED_FOR}
)
FINALIZER = f"{GROUP}/bundle"
"""On every ImageCache: the controller deletes the bundle before the object disappears."""
HOST = "_host"
"""Name of a host without Kubernetes among nodes. No Node can have it (RFC 1123 subdomain)."""
NOT_READY_TAINT = f"{GROUP}/not-ready"
"""Taint of a new node until the caches that are assigned to it are usable."""

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")
_SEPARATOR = "_"
"""Not allowed in the name of a Node (RFC 1123 subdomain)."""
_NODE = 63
"""Characters of a Node's name in a holder's; with separator and name the store allows some 80."""


class CacheState(enum.Enum):
    """Of one cache on one node."""

    PENDING = "Pending"
    """Not started: waits for other caches, or for space."""
    FETCHING = "Fetching"
    READY = "Ready"
    FAILED = "Failed"


NAME_TAKEN = "NameTaken"


class NodeCache(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    """One cache on the node."""

    name: str
    """Of the ImageCache."""
    id: str
    """``status.imageCacheId`` at the time of the report."""
    state: CacheState
    bytes_total: int = 0
    """Of the layer images of the bundle, each counted once."""
    bytes_done: int = 0
    """Of these, on this node."""
    unpacked_into: tuple[str, ...] = ()
    """Snapshotters of other runtime handlers that have the images too."""
    unpacked_bytes: int = 0
    """What they take there, each layer counted once for each of them."""
    reason: str = ""
    """CamelCase, when Pending or Failed; NameTaken when Ready and another ImageCache owns a name of its images."""
    message: str = ""


class NodeStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    mode: str = ""
    """``proxy``, ``native`` or ``prepull``."""
    capacity_bytes: int = 0
    """Bytes that the node may use for caches."""
    used_bytes: int = 0
    free_bytes: int = 0
    """Of the filesystem that holds them."""
    caches: tuple[NodeCache, ...] = ()
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node with an agent, as the controller sees it: the labels of the Node, and the agent's report."""

    name: str
    labels: Mapping[str, str] | None
    """None: a host without Kubernetes, which has what it was told to have by name, whatever a selector says."""
    status: NodeStatus
    platform: Platform | None = None
    """None: not known."""


def notes(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """What a user should know about our own annotations that have no effect."""
    ours = (key for key in annotations if key.startswith(f"{GROUP}/"))
    found = [f"{known.field(key)}: unknown, ignored" for key in ours if key not in _OURS]
    readable = {
        DIRECT_IO: (known.value(annotations, DIRECT_IO) in {"", "true", "false"}, "neither true nor false"),
        PRIORITY: (_priority(annotations) is not None, "not a whole number"),
        ELIMINATION: (known.value(annotations, ELIMINATION).upper() in {"", "LRU"}, "not LRU"),
    }
    for key, (can_be_read, problem) in readable.items():
        if not can_be_read:
            text = annotations[key]
            found.append(refusal(f"{known.field(key)}: {text[:80]!r} is {problem}, ignored", trimmed(text)))
    return tuple(found)


def also_unpack(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """The snapshotters that an ImageCache asks for (``auto``, ``off`` or names); empty: the node's setting."""
    return listed(annotations.get(ALSO_UNPACK, ""))


def direct_io(annotations: Mapping[str, str]) -> bool:
    """Whether an ImageCache asks for reads with O_DIRECT."""
    return known.value(annotations, DIRECT_IO) == "true"


def may_go(annotations: Mapping[str, str]) -> bool:
    """Whether an ImageCache may be deleted where there is no room for another one."""
    return known.value(annotations, ELIMINATION).upper() == "LRU"


def priority(annotations: Mapping[str, str]) -> int:
    """Of an ImageCache; 0 for one that is not a whole number."""
    return _priority(annotations) or 0


def _priority(annotations: Mapping[str, str]) -> int | None:
    """None: it is not a whole number."""
    text = known.value(annotations, PRIORITY) or "0"
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else None


def holder(node: str, name: str) -> str:
    """The name of one of the node's lease holders in a store that nodes share."""
    return f"{_short(node)}{_SEPARATOR}{name}"


def is_holder_of(node: str, holder_name: str) -> bool:
    """Whether ``holder`` has made the name for this node."""
    return holder_name.partition(_SEPARATOR)[0] == _short(node)


def _short(node: str) -> str:
    """At most ``_NODE`` characters, and different for different nodes."""
    # most names are used as they are, so that people recognise them; a Node's may have 253 characters
    return node if len(node) <= _NODE else f"{node[: _NODE - 13]}-{hashlib.sha256(node.encode()).hexdigest()[:12]}"


def parse_status(value: object) -> NodeStatus:
    """The status of an object of the API server; an empty one when it cannot be read."""
    try:
        return msgspec.convert(value, NodeStatus)
    except msgspec.ValidationError:  # written by an agent of another version: it counts as not ready
        return NodeStatus()


def platform_of(node_info: object, labels: Mapping[str, str]) -> Platform | None:
    """Of a Node: by its ``status.nodeInfo``, else by its labels; None when neither says it."""
    found = node_info if isinstance(node_info, dict) else {}
    system = found.get("operatingSystem") or labels.get(OS_LABEL)
    architecture = found.get("architecture") or labels.get(ARCHITECTURE_LABEL)
    if not isinstance(system, str) or not isinstance(architecture, str):
        return None
    return normalise(Platform(os=system, architecture=architecture)) if system and architecture else None
