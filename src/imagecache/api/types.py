"""The ImageCache document: what users write and what the API shows.

It covers both published generations of Alibaba's resource (``docs/adr/0013-documents-msgspec.md``): names are theirs;
those of the status that Kubernetes' conventions name, and ``images``, ``size``, ``attempt``, ``retention_days``,
``last_matched_time``, ``matches``, ``nodes`` and ``display``, are ours. Times are RFC 3339 text, UTC, whole seconds. It
must not decide anything: limits and defaults are in ``effective_spec``, transitions in ``phases``.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

GROUP = "eci.alibabacloud.com"
API_VERSION = f"{GROUP}/v1"
KIND = "ImageCache"
RESOURCE = f"imagecache.{GROUP}"
"""As kubectl names one: ``imagecache.eci.alibabacloud.com/NAME created``."""
RESOURCES = f"imagecaches.{GROUP}"
"""As kubectl names the collection: ``imagecaches.eci.alibabacloud.com "NAME" not found``."""


class Phase(enum.Enum):
    """``status.phase``, in Alibaba's words."""

    PENDING = "Pending"
    CREATING = "Creating"
    READY = "Ready"
    FAILED = "Failed"
    UPDATING = "Updating"
    UPDATE_FAILED = "UpdateFailed"


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    """metav1.ObjectMeta, as far as we need it."""

    name: str
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}
    uid: str = ""
    creation_timestamp: str = ""
    generation: int = 0
    """Grows by one with each change of the spec."""
    resource_version: str = ""
    """In a cluster only, as the next two."""
    deletion_timestamp: str = ""
    finalizers: tuple[str, ...] = ()


class Spec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    images: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """References as the user wrote them, trimmed (``written.trimmed``)."""
    image_pull_secrets: tuple[str, ...] = ()
    """``namespace:name``."""
    image_cache_size: int | None = None
    """GiB."""
    retention_days: int | None = None


class EventMetadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    creation_timestamp: None = None
    name: str


class EventSource(msgspec.Struct, frozen=True, kw_only=True):
    component: str
    host: str = ""


class InvolvedObject(msgspec.Struct, frozen=True):
    """Always empty, as in the published samples."""


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The keys of both generations: a core/v1 Event, and ``name``, ``timestamp``."""

    type: str
    """``Normal`` or ``Warning``."""
    reason: str
    message: str
    name: str
    """Its subject: an image reference or the cache's name."""
    count: int = 1
    event_time: None = None
    first_timestamp: str
    last_timestamp: str
    timestamp: str
    involved_object: InvolvedObject = InvolvedObject()
    metadata: EventMetadata
    reporting_component: str = ""
    reporting_instance: str = ""
    source: EventSource


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """metav1.Condition."""

    type: str
    status: str
    """``True``, ``False`` or ``Unknown``."""
    reason: str
    message: str = ""
    last_transition_time: str
    observed_generation: int


class StatusImage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What a reference resolved to, for one platform."""

    image: str
    """As written in the spec."""
    platform: str = ""
    """Of the nodes that it is for: ``linux/amd64``."""
    digest: str
    """Of the index or manifest that the reference named at build time."""
    size: int = 0
    """Bytes of its compressed layers."""
    private: bool = False
    """A credential was needed to read it."""
    verified: bool = False
    """It is what its name means: the reference has a digest, or the registry's certificate was verified, or an
    administrator lists the registry (setting insecure_registries). One that is not gets no name in k8s.io."""
    last_checked_time: str = ""
    """When its tag was looked up last; written once an hour at most while the tag names the same."""
    drifted: bool = False
    """The tag names something else by now."""
    current_digest: str = ""
    """What it names, when it has drifted."""


class NodeCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of nodes: the cache is assigned to them, usable on them, failed on them."""

    desired: int = 0
    ready: int = 0
    failed: int = 0


class Display(msgspec.Struct, frozen=True, kw_only=True):
    """Texts for ``kubectl get -o wide``: its columns show a field as it is and compute nothing."""

    nodes: str = ""
    """Ready of desired nodes: ``2/3``."""
    size: str = ""
    """``245MiB``."""


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    """The build that runs, that is tried again, or that was last: what is remembered of it after a restart."""

    image_cache_id: str
    """Id of the bundle that it makes; ``status.image_cache_id`` has it once the bundle serves."""
    wanted: str = ""
    """Fingerprint of what it was asked for (``building.wanted``)."""
    failures: int = 0
    """In a row, for reasons that pass."""
    faults: int = 0
    """How often its result was not what was asked for, was lost, or it ended for a reason that is ours."""
    next_time: str = ""
    """Not tried before that; empty: at once."""
    secrets: str = ""
    """Versions of the pull secrets that it had, and..."""
    configuration: str = ""
    """... of the registries' configuration: both while a failure stands that others can end."""


class Status(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    """A field without a value is left out of the document; ``phase`` and ``progress`` are always present."""

    phase: Phase
    progress: str
    """``NN%``."""
    observed_generation: int = 0
    """Generation of the spec that the whole status is about; 0: none yet."""
    image_cache_id: str = ""
    bundle_digest: str = ""
    """Of the document of the bundle ``image_cache_id`` (``bundle_document.digest_of``); empty before there is one.

    Nodes read no other document, so that they need not believe a store anything.
    """
    start_time: str = ""
    last_updated_time: str = ""
    expire_date_time: str = ""
    retention_days: int = 0
    """What ``expire_date_time`` was computed with; 0: never expires."""
    reason: str = ""
    """Why it failed and what to do, for people."""
    size: int = 0
    """Bytes of the layer images of this cache, each counted once."""
    last_matched_time: str = ""
    """When the last pod was matched with it."""
    matches: int = 0
    """Pods that were matched with it."""
    attempt: Attempt | None = None
    events: tuple[Event, ...] = ()
    conditions: tuple[Condition, ...] = ()
    images: tuple[StatusImage, ...] = ()
    nodes: NodeCounts | None = None
    display: Display | None = None
    """In a cluster only."""


class ImageCache(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    api_version: str
    kind: str
    metadata: Metadata
    spec: Spec
    status: Status | None = None

    @property
    def name(self) -> str:
        return self.metadata.name

    def with_status(self, status: Status | None) -> ImageCache:
        return msgspec.structs.replace(self, status=status)
