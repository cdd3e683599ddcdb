"""The inputs of a match and its answer, as plain data."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from imagecache.api.types import Phase

SERVING = frozenset({Phase.READY, Phase.UPDATING, Phase.UPDATE_FAILED})
"""Phases in which a cache has content that pods may use: an update builds beside the old content."""


@dataclass(frozen=True, slots=True)
class PodView:
    """What matters of a pod."""

    namespace: str
    name: str
    uid: str
    images: tuple[str, ...]
    """One for each init container, container and image volume, as written."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    pull_secrets: tuple[str, ...] = ()
    """Names, of the pod's namespace."""
    architecture: str = ""
    """GOARCH of the pod's own node selector; empty: any."""
    node: str = ""
    """That it is bound to; empty: none yet."""


@dataclass(frozen=True, slots=True)
class CacheView:
    """What matters of an ImageCache."""

    name: str
    uid: str
    id: str
    """Of the bundle that serves; empty: none."""
    phase: Phase
    images: tuple[str, ...]
    """As written in the spec."""
    created: dt.datetime
    size: int = 0
    """Bytes (``status.size``)."""
    digests: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Image as written: what it resolved to, for each platform."""
    architectures: frozenset[str] = frozenset()
    """GOARCH of ``status.images``; empty: not known."""
    deleted: bool = False
    """Its deletion has begun."""
    reason: str = ""
    """Why it does not serve (``status.reason``)."""
    nodes: frozenset[str] = frozenset()
    """Those that report it usable."""
    desired: int = 0
    """Number of nodes that it is for."""
    ready: int = 0
    """Of these, number that reported it usable when its status was written."""
    still: frozenset[str] = frozenset()
    """Nodes that have an earlier content of it, with all of its images."""
    ready_since: dt.datetime | None = None
    """When it became Ready; None: it is not, or not known."""
    failed_since: dt.datetime | None = None
    """When its build failed; None: it has not, or that is not known."""

    @property
    def serves(self) -> bool:
        return self.phase in SERVING and bool(self.id) and not self.deleted


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of ``selectors`` in the ConfigMap kube-system/eci-profile."""

    name: str
    namespace_labels: Mapping[str, str]
    object_labels: Mapping[str, str]
    annotations: Mapping[str, str]
    """Those of ``keys.KEYS``; others have no effect."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What is said around a pod, from near to far."""

    namespace_annotations: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    """In the order of the ConfigMap: of those that apply, the first that says a key counts."""
    cluster: Mapping[str, str] = field(default_factory=dict)
    """From the settings: ``{CREATE: "true"}``. What nobody says: match yes, create no."""


@dataclass(frozen=True, slots=True)
class Said:
    """One key that somebody wrote, and where."""

    key: str
    value: str
    """Trimmed."""
    where: str
    """``pod``, ``namespace NAME``, ``selector NAME`` or ``cluster``, and the key as written there."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a pod asks for, with all that is said around it."""

    pin: str = ""
    """Id or name of a cache; empty: none."""
    auto: bool = True
    create: bool = False
    perfect: bool = False
    count: int | None = None
    require_node: bool = False
    explicit: bool = False
    """Somebody wrote one of the keys for this pod, its Namespace or a selector: a miss is worth an event."""
    sources: tuple[Said, ...] = ()
    notes: tuple[str, ...] = ()
    """Values that are ignored, and why."""


class Outcome(enum.Enum):
    NOTHING = "nothing"
    """Automatic matching is off for this pod."""
    HIT = "hit"
    MISSED = "missed"
    NOT_FOUND = "not found"
    """The pinned cache does not exist."""
    NOT_COMPLETE = "not complete"
    """The pinned cache does not serve yet."""


Rank = tuple[int, int, int, float, str]


def rank(exact: int, repository: int, size: int, created: dt.datetime, name: str) -> Rank:
    """The smallest wins: most exact, most of the same repository, smallest, newest, name."""
    return (-exact, -repository, size, -created.timestamp(), name)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cache that has something of the pod, and what became of it."""

    name: str
    id: str
    exact: int
    """Containers whose image it has exactly."""
    repository: int
    """Containers of whose image it has another tag or digest."""
    size: int
    created: dt.datetime
    won: bool
    why: str
    """Why it did not win; empty for the winner."""

    @property
    def rank(self) -> Rank:
        return rank(self.exact, self.repository, self.size, self.created, self.name)


@dataclass(frozen=True, slots=True)
class AutoCache:
    """An ImageCache to be made for a pod."""

    name: str
    """Made from the content: every pod with the same images and secrets gets the same."""
    images: tuple[str, ...]
    """Normalised, sorted."""
    pull_secrets: tuple[str, ...]
    """``namespace:name``."""
    size: int
    """GiB (``spec.imageCacheSize``)."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Of the pod, that the build needs: registries without TLS, architecture."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event on the pod."""

    reason: str
    type: str
    """``Normal`` or ``Warning``."""
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, with all that explains it."""

    outcome: Outcome
    ask: Ask
    winner: str = ""
    """Name of the cache that is reported; with NOT_COMPLETE that of the pinned one."""
    id: str = ""
    """Its id, for the pod's annotation; empty unless it is a HIT."""
    hold: bool = False
    """A pin that is not met: the pod waits. Whether nodes have the cache is not the match's to say."""
    served: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Each image of the pod once, with the names of the serving caches that have exactly it."""
    candidates: tuple[Candidate, ...] = ()
    """By rank."""
    create: AutoCache | None = None
    events: tuple[Told, ...] = ()
    notes: tuple[str, ...] = ()
    """What was ignored or cannot be done, for ``explain``."""
