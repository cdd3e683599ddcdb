"""Between an ImageCache and its build: the build request, events of the build, and the status that it results in.

Pure: documents and events in, documents out. It must not do I/O and must not know who builds.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec

from imagecache.api import columns, events, phases, tags
from imagecache.api.effective_spec import EffectiveSpec
from imagecache.api.types import Event, Status, StatusImage
from imagecache.builder.build_events import BuildEvent, ImageReady, ImageResolved
from imagecache.errors import ImageCacheError
from imagecache.oci.descriptor import Platform
from imagecache.store.bundle_document import Bundle, ImageRecord, digest_of
from imagecache.written import explained


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Everything about one build that comes from the ImageCache document."""

    bundle_id: str
    images: tuple[str, ...]
    platforms: tuple[Platform, ...]
    size_limit: int
    """Bytes that the layer images of one platform may take together."""
    complete: bool = True
    """Every image must have every platform; otherwise each is built for those that it has."""
    plain_http: frozenset[str] = frozenset()
    """``host[:port]`` exactly as in the references."""
    insecure: frozenset[str] = frozenset()
    pull_secrets: tuple[str, ...] = field(default=())
    """``namespace:name``."""
    revision: str = ""
    """Of the content: with another one the same images make another bundle."""


def request(cache_id: str, spec: EffectiveSpec) -> BuildRequest:
    return BuildRequest(
        bundle_id=cache_id,
        images=spec.images,
        platforms=spec.platforms,
        complete=spec.names_architecture,
        size_limit=spec.size_limit,
        plain_http=spec.plain_http,
        insecure=spec.insecure,
        pull_secrets=spec.pull_secrets,
        revision=spec.revision,
    )


def wanted(spec: EffectiveSpec) -> str:
    """Fingerprint of everything that a build is asked for: another one when any of it changes, wherever it stands.

    Not of how often or how long: a retention, a selector or a priority is no reason to build.
    """
    asked = (
        sorted(spec.images),
        sorted(map(str, spec.platforms)),
        spec.names_architecture,
        spec.size_limit,
        sorted(spec.plain_http),
        sorted(spec.insecure),
        sorted(spec.pull_secrets),
        spec.revision,
    )
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]


def difference(document: Bundle, spec: EffectiveSpec) -> str:
    """How a bundle differs from what the spec asks for, for people; empty when it is what is asked for.

    By what is in it, not by a fingerprint: a new version that computes another one must not build everything again.
    """
    asked, made = set(spec.images), {image.reference for image in document.images}
    found = [f"spec.images has {_listed(asked - made)}"] if asked - made else []
    found += [f"the bundle has {_listed(made - asked)}"] if made - asked else []
    if spec.revision and document.revision != spec.revision:  # an annotation that was removed asks for nothing
        found.append("a refresh is asked for")
    found += [others] if (others := _other_platforms(document, spec)) else []
    size = max((bundle_size(document.on(platform)) for platform in document.platforms), default=0)
    if size > spec.size_limit:
        found.append(f"the images take {columns.size(size)}, {spec.size_gib}GiB are allowed")
    return ", ".join(found)


def overdue(document: Bundle, spec: EffectiveSpec) -> str:
    """Why a bundle that is what the spec asks for is built again all the same, for people; empty when it is not.

    A build that runs when the schedule is due counts: else one that takes longer than the schedule's pauses never ends.
    """
    return f"its refresh schedule was due at {spec.due}" if document.created < spec.due else ""


def _other_platforms(document: Bundle, spec: EffectiveSpec) -> str:
    """How the platforms of a bundle differ from those that the spec asks for; empty: they do not.

    Where the document names none, a bundle may have been built for more than are wanted now: nodes come and go, and
    what was built for them is no reason to build again.
    """
    had, wanted = set(document.platforms), set(spec.platforms)
    if had == wanted or (had > wanted and not spec.names_architecture):
        return ""
    asked, built = (", ".join(sorted(map(str, each))) for each in (wanted, had))
    return f"{asked} is asked for, the bundle was built for {built}"


def _listed(images: Collection[str]) -> str:
    """In quotes, so that a blank at the end shows."""
    return " and ".join(repr(image) for image in sorted(images))


def ready(status: Status, generation: int, now: dt.datetime, document: Bundle, retention_days: int | None) -> Status:
    """The status of a cache whose bundle is in the store: its id and its digest are written together."""
    return phases.ready(
        msgspec.structs.replace(status, image_cache_id=document.id, bundle_digest=str(digest_of(document))),
        generation,
        now,
        images=tags.carried(status.images, [_status_image(image) for image in document.images]),
        size=bundle_size(document),
        retention_days=retention_days,
    )


def architectures(status: Status) -> frozenset[str]:
    """GOARCH of the platforms that its images were built for."""
    return frozenset(image.platform.split("/")[1] for image in status.images if "/" in image.platform)


def bundle_size(document: Bundle) -> int:
    """Bytes of its layer images, each counted once."""
    return sum({layer.name: layer.size for image in document.images for layer in image.layers}.values())


def summary(document: Bundle) -> str:
    """A bundle in one line, for an event."""
    size = columns.size(bundle_size(document))
    images = columns.count(len({image.reference for image in document.images}), "image")
    layers = columns.count(len(document.layer_names()), "layer")
    return f"Image cache is ready: {images}, {layers}, {size}"


def notes(document: Bundle) -> tuple[str, ...]:
    """What is unusual about its images, each once: an image may be there for several platforms."""
    return tuple(dict.fromkeys(f"{image.reference}: {note}" for image in document.images for note in image.notes))


def explain(error: ImageCacheError) -> str:
    """An error with its hint: what happened, and what to do; as a status has it, so that the two compare."""
    return explained(str(error), error.hint)


def status_event(event: BuildEvent, now: dt.datetime) -> Event | None:
    """The entry of ``status.events`` for an event of a build; None for those that users need not see."""
    match event:
        case ImageResolved(image=image):
            return events.event("Pulling", f"Pulling image {image}", about=image, now=now)
        case ImageReady(image=image):
            return events.event("Pulled", f"Successfully pulled image {image}", about=image, now=now)
        case _:
            return None


def _status_image(image: ImageRecord) -> StatusImage:
    size = sum(layer.blob.size for layer in image.layers)
    platform = str(image.platform)
    return StatusImage(
        image=image.reference,
        platform=platform,
        digest=str(image.target.digest),
        size=size,
        private=image.private,
        verified=image.verified,
    )
