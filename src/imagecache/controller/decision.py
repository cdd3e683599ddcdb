"""What ``decide`` knows and what it answers. Plain data; it must not do anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imagecache.api.building import BuildRequest
from imagecache.api.nodes import NodeView
from imagecache.api.types import Event, Status
from imagecache.errors import ImageCacheError, InvalidManifest
from imagecache.store.model import Bundle


@dataclass(frozen=True, slots=True)
class Running:
    """A build that waits for its turn or runs."""

    request: BuildRequest
    done: int = 0
    total: int = 0
    """Bytes; 0 while the images are being resolved."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A build that ended badly. One that ended well is a bundle in the store."""

    request: BuildRequest
    error: ImageCacheError


Build = Running | Broken


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedState:
    """Everything around one ImageCache, as it is now."""

    architecture: str
    """GOARCH for caches that name none."""
    bundles: Mapping[str, Bundle] = field(default_factory=dict)
    """Those of ``decide.bundle_ids`` that the store has."""
    build: Build | None = None
    told: Sequence[Event] = ()
    """What the build told since last time."""
    nodes: Sequence[NodeView] = ()
    """Every node that has an agent."""
    malformed: InvalidManifest | None = None
    """The spec is no ImageCache's."""
    notes: Sequence[str] = ()
    """What was ignored of the document."""
    secrets_problem: ImageCacheError | None = None
    """Why the pull secrets cannot be had."""
    secrets_changed: bool = False
    """They are others than those that the last build had, or it is not known which it had."""
    store_problem: ImageCacheError | None = None
    """The store cannot be asked; then ``bundles`` says nothing."""


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    pass


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    pass


@dataclass(frozen=True, slots=True)
class StartBuild:
    request: BuildRequest


@dataclass(frozen=True, slots=True)
class StopBuild:
    """Stop it if it runs, and forget how it ended."""


@dataclass(frozen=True, slots=True)
class DeleteBundle:
    """If there is one. It must not stand in the way of anything else."""

    bundle_id: str


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Its time has come."""


Action = AddFinalizer | RemoveFinalizer | StartBuild | StopBuild | DeleteBundle | DeleteObject


@dataclass(frozen=True, slots=True)
class Decision:
    """RuntimeFiles out in this order: finalizer, status, the other actions as listed, events."""

    status: Status | None
    """As it should be; the same object as before when nothing changes."""
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    """New ones; they are in the status already."""
    again: float | None = None
    """Look again after so many seconds, when nothing happens before. None: no need."""
