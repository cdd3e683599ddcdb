"""Between an ImageCache and its build: the build request, events of the build, and the status that it results in.

Pure: documents and events in, documents out. It must not do I/O and must not know who builds.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec

from imagecache.api import columns, events, phases
from imagecache.api.effective_spec import EffectiveSpec
from imagecache.api.types import Event, Status, StatusImage
from imagecache.builder.build_events import BuildEvent, ImageReady, ImageResolved
from imagecache.errors import ImageCacheError
from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import matches
from imagecache.store.bundle_document import Bundle, ImageRecord


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Everything about one build that comes from the ImageCache document."""

    bundle_id: str
    images: tuple[str, ...]
    platform: Platform
    size_limit: int
    """Bytes that the layer images may take together."""
    plain_http: frozenset[str] = frozenset()
    """``host[:port]`` exactly as in the references."""
    insecure: frozenset[str] = frozenset()
    pull_secrets: tuple[str, ...] = field(default=())
    """``namespace:name``."""


def request(cache_id: str, spec: EffectiveSpec) -> BuildRequest:
    return BuildRequest(
        bundle_id=cache_id,
        images=spec.images,
        platform=spec.platform,
        size_limit=spec.size_limit,
        plain_http=spec.plain_http,
        insecure=spec.insecure,
        pull_secrets=spec.pull_secrets,
    )


def wanted(spec: EffectiveSpec) -> str:
    """Fingerprint of everything that a build is asked for: another one when any of it changes, wherever it stands.

    Not of how often or how long: a retention, a selector or a priority is no reason to build.
    """
    asked = (
        sorted(spec.images),
        str(spec.platform),
        spec.size_limit,
        sorted(spec.plain_http),
        sorted(spec.insecure),
        sorted(spec.pull_secrets),
    )
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]


def difference(document: Bundle, spec: EffectiveSpec) -> str:
    """How a bundle differs from what the spec asks for, for people; empty when it is what is asked for.

    By what is in it, not by a fingerprint: a new version that computes another one must not build everything again. The
    architecture counts only where the document names one: otherwise it is that of the process that reconciles, and a
    controller that is moved to another node must not build everything again either.
    """
    asked, made = set(spec.images), {image.reference for image in document.images}
    found = [f"spec.images has {_listed(asked - made)}"] if asked - made else []
    found += [f"the bundle has {_listed(made - asked)}"] if made - asked else []
    if spec.names_architecture:
        platforms = [image.platform for image in document.images if image.platform.architecture]
        others = sorted({str(platform) for platform in platforms if not matches(spec.platform, platform)})
        found += [f"{spec.platform} is asked for, the bundle has {', '.join(others)}"] if others else []
    if bundle_size(document) > spec.size_limit:
        found.append(f"the images take {columns.size(bundle_size(document))}, {spec.size_gib}GiB are allowed")
    return ", ".join(found)


def _listed(images: Collection[str]) -> str:
    """In quotes, so that a blank at the end shows."""
    return " and ".join(repr(image) for image in sorted(images))


def ready(status: Status, generation: int, now: dt.datetime, document: Bundle, retention_days: int | None) -> Status:
    """The status of a cache whose bundle is in the store."""
    return phases.ready(
        status,
        generation,
        now,
        images=tuple(_status_image(image) for image in document.images),
        size=bundle_size(document),
        retention_days=retention_days,
    )


def bundle_size(document: Bundle) -> int:
    """Bytes of its layer images, each counted once."""
    return sum({layer.name: layer.size for image in document.images for layer in image.layers}.values())


def summary(document: Bundle) -> str:
    """A bundle in one line, for an event."""
    size = columns.size(bundle_size(document))
    images = columns.count(len(document.images), "image")
    layers = columns.count(len(document.layer_names()), "layer")
    return f"Image cache is ready: {images}, {layers}, {size}"


def explain(error: ImageCacheError) -> str:
    """An error with its hint: what happened, and what to do."""
    return f"{error}; {error.hint}" if error.hint else str(error)


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
    return StatusImage(image=image.reference, digest=str(image.target.digest), size=size)
