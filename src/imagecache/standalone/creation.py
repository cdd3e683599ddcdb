"""The object at the start and at the end of its build. Pure: objects and documents in, objects out."""

from __future__ import annotations

import datetime as dt
import random

import msgspec

from imagecache.api import ids, phases, times
from imagecache.api.types import RESOURCES, ImageCache, Phase, Status, StatusImage
from imagecache.api.wanted import Wanted
from imagecache.errors import AlreadyExists, ImageCacheError
from imagecache.standalone.ports import BuildRequest
from imagecache.store.model import ImageRecord, SnapshotDocument

_UNFINISHED = frozenset({Phase.PENDING, Phase.CREATING, Phase.FAILED})


def begin(cache: ImageCache, now: dt.datetime, source: random.Random) -> ImageCache:
    """A new object: what the API server and the controller would fill in."""
    metadata = msgspec.structs.replace(
        cache.metadata, uid=ids.new_uid(source), creation_timestamp=times.render(now), generation=1
    )
    status = phases.begin(ids.new_cache_id(source), metadata.generation, now)
    return msgspec.structs.replace(cache, metadata=metadata, status=status)


def resume(cache: ImageCache, existing: ImageCache, status: Status, now: dt.datetime) -> ImageCache:
    """An object that failed or was interrupted, once more: same id, uid and history. Raises AlreadyExists."""
    if status.phase not in _UNFINISHED:
        raise AlreadyExists(
            f'{RESOURCES} "{cache.name}" already exists',
            hint=f"use another name, or delete it first: imagecache delete {cache.name}",
        )
    changed = differs(cache, existing)
    metadata = msgspec.structs.replace(
        existing.metadata,
        annotations=cache.metadata.annotations,
        labels=cache.metadata.labels,
        generation=existing.metadata.generation + int(changed),
    )
    status = phases.retry(status, metadata.generation, now, restart=changed)
    return msgspec.structs.replace(cache, metadata=metadata, status=status)


def differs(one: ImageCache, other: ImageCache) -> bool:
    """Whether they ask for different things."""
    return (one.spec, one.metadata.annotations) != (other.spec, other.metadata.annotations)


def request(cache_id: str, wanted: Wanted) -> BuildRequest:
    return BuildRequest(
        snapshot_id=cache_id,
        images=wanted.images,
        platform=wanted.platform,
        size_limit=wanted.size_limit,
        plain_http=wanted.plain_http,
        insecure=wanted.insecure,
        pull_secrets=wanted.pull_secrets,
    )


def ready(
    status: Status, generation: int, now: dt.datetime, document: SnapshotDocument, retention_days: int | None
) -> Status:
    return phases.ready(
        status,
        generation,
        now,
        images=tuple(_status_image(image) for image in document.images),
        size=snapshot_size(document),
        retention_days=retention_days,
    )


def snapshot_size(document: SnapshotDocument) -> int:
    """Bytes of its layer images, each counted once."""
    return sum({layer.name: layer.size for image in document.images for layer in image.layers}.values())


def explain(error: ImageCacheError) -> str:
    """An error as a reason that a person can act on: which image, what happened, what to do."""
    return f"{error}; {error.hint}" if error.hint else str(error)


def _status_image(image: ImageRecord) -> StatusImage:
    size = sum(layer.blob.size for layer in image.layers)
    return StatusImage(image=image.reference, digest=str(image.target.digest), size=size)
