"""The input of ``decide`` and its output. Plain data; it must not do anything."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imagecache.api.assignment import NodeCounter
from imagecache.api.building import BuildRequest
from imagecache.api.tags import TagCheck
from imagecache.api.types import Event, Status
from imagecache.api.usage import Matches
from imagecache.controller.node_index import NodeIndex
from imagecache.errors import ImageCacheError, InvalidManifest
from imagecache.store.bundle_document import Bundle

CONFIGURATION = "configuration"
"""Among ``Decision.watches``: what is configured about registries. No Secret is called so."""


class Role(enum.Enum):
    """Who reconciles; it says which builds it begins and what it waits for."""

    CLUSTER = "cluster"
    """The controller of a cluster goes on with every build, and waits for what a build lacks."""
    COMMAND = "command"
    """A person's command goes on too, and does not wait: what is lacking is a failure that the person sees."""
    NODE = "node"
    """attach and detach on a host without Kubernetes change counts and events, and nothing else."""
    HOST_AGENT = "host agent"
    """The agent of a host without Kubernetes. A build that a person interrupted goes on with the person's command."""


@dataclass(frozen=True, slots=True)
class Running:
    """A build that waits for its turn or runs."""

    request: BuildRequest
    done: int = 0
    total: int = 0
    """Bytes; 0 while the images are being resolved."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A build that failed."""

    request: BuildRequest
    error: ImageCacheError
    secrets: str = ""
    """Versions of the pull secrets that it had (``pull_secrets.version``)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A build that ended well: its bundle is in the store, or something is wrong."""

    request: BuildRequest


Build = Running | Broken | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedState:
    """Everything around one ImageCache, as it is now."""

    architectures: Sequence[str]
    """GOARCH of those that a cache is built for when it names none."""
    role: Role = Role.CLUSTER
    requested: bool = False
    """A person has just asked for this cache: what failed or was interrupted is begun anew."""
    bundles: Mapping[str, Bundle] = field(default_factory=dict)
    """Every bundle of this object that the store has, by id."""
    build: Build | None = None
    events: Sequence[Event] = ()
    """Events of the build and of nodes since the last decision."""
    nodes: NodeCounter | None = field(default_factory=NodeIndex)
    """None: the cache was never assigned to a node, so it has no counts."""
    malformed: InvalidManifest | None = None
    """The object's spec is not an ImageCache's."""
    notes: Sequence[str] = ()
    """What was ignored of the document."""
    secrets_problem: ImageCacheError | None = None
    """Why the pull secrets cannot be read."""
    secrets: str = ""
    """Their versions; empty when there are none, when they cannot be read, and when ``needs_secrets`` is false."""
    configuration: str = ""
    """Version of what is configured about registries, besides the object."""
    store_problem: ImageCacheError | None = None
    """The store cannot be read; then ``bundles`` is empty."""
    refusal: ImageCacheError | None = None
    """Why there is no room for this cache, which has not begun to be built (``quota``)."""
    eviction: str = ""
    """Why it has to go, to make room for others; empty: it stays."""
    matches: Matches | None = None
    """Of pods, that are to be in the status now."""
    tags: Mapping[str, TagCheck] = field(default_factory=dict)
    """Look-ups of tags that the status may not have yet, by image as written."""


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
    """Idempotent, and retried in the background: nothing waits for it."""

    bundle_id: str


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """It has expired, or has to go."""


Action = AddFinalizer | RemoveFinalizer | StartBuild | StopBuild | DeleteBundle | DeleteObject


@dataclass(frozen=True, slots=True)
class Decision:
    """Carried out in this order: finalizer, status, the other actions as listed, events."""

    status: Status | None
    """As it should be; the same object as before when nothing changes."""
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    """New ones; they are in the status already."""
    again: float | None = None
    """Seconds after which to look again when nothing happens before. None: no need."""
    watches: tuple[str, ...] = ()
    """What would lead to another decision if it changed: Secrets (``namespace:name``) and ``CONFIGURATION``. Someone
    else looks, once for all objects that wait for the same."""
    problem: ImageCacheError | None = None
    """What keeps the cache from being Ready, met now."""
