"""What a snapshot is, and what its names say.

Kinds, infos and rows as plain values; the two questions that names and labels answer: which layer is being unpacked
(``target_of``), and which chainID a committed snapshot is (``chain_of``). Labels may come from a pod's annotations
(containerd issue 14203), so nothing is believed that is not a digest, and nothing but an unpack is looked at. Pure: it
must not do I/O.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from imagecache.digest import ChainID, Digest
from imagecache.errors import InvalidDigest
from imagecache.store.model import LayerName

REF_LABEL = "containerd.io/snapshot.ref"
"""The chainID that containerd is about to unpack (core/snapshots/snapshotter.go, LabelSnapshotRef)."""
_UNPACK_PREFIX = "extract-"
"""First word of every key that containerd unpacks into: ``extract-<time>-<random> <chainID>``."""


class Kind(enum.IntEnum):
    """Numbers are those of containerd's API, and those in the database."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class Usage:
    size: int
    """Bytes on disk."""
    inodes: int


NOTHING = Usage(0, 0)


@dataclass(frozen=True, slots=True)
class Info:
    """A snapshot as containerd sees it. Names and keys share one space."""

    kind: Kind
    name: str
    parent: str
    """Name of the snapshot below; empty for none."""
    labels: Mapping[str, str]
    created: dt.datetime
    updated: dt.datetime


@dataclass(frozen=True, slots=True)
class LayerRef:
    """A layer image as a mountpoint of ours."""

    id: int
    """Small and never used twice: it is the mountpoint's name, and mount options are short (4096 bytes)."""
    name: LayerName


@dataclass(frozen=True, slots=True)
class Row:
    """A snapshot as we keep it."""

    id: int
    """Small and never used twice: it is the directory's name."""
    info: Info
    parent_id: int | None
    chain: ChainID | None
    """Of a committed snapshot, when its name says one."""
    layer: LayerRef | None
    """Serves the content; without one it is in the snapshot's own directory."""
    usage: Usage | None
    """Of a committed snapshot, once it is known."""


@dataclass(frozen=True, slots=True)
class Lower:
    """One committed snapshot of a chain, as a lower directory."""

    snapshot_id: int
    layer: LayerRef | None


@dataclass(frozen=True, slots=True)
class LayerExists:
    """The answer to an unpack that is not needed: the committed snapshot ``name`` has the layer."""

    chain: ChainID
    name: str


def own_key(key: str) -> str:
    """The key without containerd's prefix ``<namespace>/<sequence>/`` (core/metadata/snapshot.go, createKey)."""
    return key.split("/", 2)[-1]


def is_unpack(key: str) -> bool:
    """Whether a layer is unpacked into this snapshot, as against a container that runs on it."""
    return own_key(key).startswith(_UNPACK_PREFIX)


def target_of(key: str, labels: Mapping[str, str]) -> ChainID | None:
    """The layer that containerd wants to unpack into ``key``, None when this is not an unpack or names no digest."""
    return _chain(labels.get(REF_LABEL, "")) if is_unpack(key) else None


def chain_of(name: str) -> ChainID | None:
    """The chainID that a committed snapshot's name ends with; containerd commits a layer under its chainID."""
    return _chain(name.rpartition("/")[2])


def _chain(text: str) -> ChainID | None:
    try:
        return ChainID(Digest(text))
    except InvalidDigest:
        return None


def served_name(key: str, chain: ChainID, parent: str) -> str:
    """Name of the snapshot that serves ``chain`` on top of the snapshot named ``parent``.

    It follows from its arguments alone, so that a lost database is made again with the names that containerd knows.
    It ends with the chainID, as all names that containerd gives do.
    """
    namespace, _, rest = key.partition("/")
    below = hashlib.sha256(parent.encode()).hexdigest()[:12]
    return f"{namespace if rest else 'imagecache'}/served-{below}/{chain}"
