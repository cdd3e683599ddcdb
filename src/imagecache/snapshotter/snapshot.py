"""What a snapshot is, and what its names mean.

Kinds, infos and rows as plain values, and what names and labels tell: which layer is being unpacked (``target_of``),
and which chainID a committed snapshot has (``chain_of``). Labels may come from a pod's annotations (containerd issue
14203), so only an unpack's are read, and only a digest is accepted. Pure: it must not do I/O.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from imagecache.digest import ChainID, Digest
from imagecache.errors import InvalidDigest, InvalidReference
from imagecache.oci.reference import Reference
from imagecache.store.layer_name import LayerName

REF_LABEL = "containerd.io/snapshot.ref"
"""The chainID that containerd is about to unpack (core/snapshots/snapshotter.go, LabelSnapshotRef)."""
IMAGE_LABEL = "containerd.io/snapshot/cri.image-ref"
"""The reference that CRI pulls, where ``disable_snapshot_annotations`` is false (pkg/snapshotters/annotations.go)."""
_UNPACK_PREFIX = "extract-"
"""How every key that containerd unpacks into begins: ``extract-<time>-<random> <chainID>``."""


class Kind(enum.IntEnum):
    """The numbers are those of containerd's API, and of the database."""

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
    """Name of the snapshot below; empty: none."""
    labels: Mapping[str, str]
    created: dt.datetime
    updated: dt.datetime


@dataclass(frozen=True, slots=True)
class LayerRef:
    """A layer image, and its mountpoint of ours."""

    id: int
    """The mountpoint's name. Small, since mount options have at most 4096 bytes; never used twice, since a mount of an
    earlier layer may still be there."""
    name: LayerName


@dataclass(frozen=True, slots=True)
class Row:
    """A snapshot in the database."""

    id: int
    """The directory's name. Small and never used twice, as ``LayerRef.id``."""
    info: Info
    parent_id: int | None
    chain: ChainID | None
    """Of a committed snapshot whose name ends with one."""
    layer: LayerRef | None
    """Has the content; None: the snapshot's own directory has it."""
    usage: Usage | None
    """Of a committed snapshot, once it was measured."""


@dataclass(frozen=True, slots=True)
class Lower:
    """One committed snapshot of a chain, as a lower directory."""

    snapshot_id: int
    layer: LayerRef | None


@dataclass(frozen=True, slots=True)
class LayerBelow:
    """A committed snapshot that another one stands on."""

    chain: str
    """Its chainID; its name, where that has none."""
    served: bool
    """A layer image has the content: nothing was pulled for it."""
    created: dt.datetime


@dataclass(frozen=True, slots=True)
class LayerExists:
    """The answer to a ``prepare`` for an unpack that is not needed: the committed snapshot ``name`` has the layer."""

    chain: ChainID
    name: str


def is_unpack(key: str) -> bool:
    """Whether the snapshot is for unpacking a layer, and not for a container."""
    own = key.split("/", 2)[-1]  # without containerd's <namespace>/<sequence>/ (core/metadata/snapshot.go, createKey)
    return own.startswith(_UNPACK_PREFIX)


def target_of(key: str, labels: Mapping[str, str]) -> ChainID | None:
    """The layer that containerd wants to unpack into ``key``; None when it is no unpack or has no digest."""
    return _chain(labels.get(REF_LABEL, "")) if is_unpack(key) else None


def repository_of(labels: Mapping[str, str]) -> str:
    """Of the image that containerd pulls, as references name it; empty when it does not say."""
    text = labels.get(IMAGE_LABEL, "")
    try:
        return Reference.parse(text).repository if text else ""
    except InvalidReference:
        return text  # no image of ours has it


def chain_of(name: str) -> ChainID | None:
    """The chainID that a committed snapshot's name ends with: containerd commits a layer under its chainID."""
    return _chain(name.rpartition("/")[2])


def _chain(text: str) -> ChainID | None:
    try:
        return ChainID(Digest(text))
    except InvalidDigest:
        return None


def served_name(key: str, chain: ChainID, parent: str) -> str:
    """Name of the snapshot that serves ``chain`` on top of the snapshot named ``parent``.

    It depends on its arguments alone, so that a lost database is rebuilt with the names that containerd knows. It ends
    with the chainID, as the names that containerd commits do.
    """
    namespace, _, rest = key.partition("/")
    below = hashlib.sha256(parent.encode()).hexdigest()[:12]
    return f"{namespace if rest else 'imagecache'}/served-{below}/{chain}"
