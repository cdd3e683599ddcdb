"""The object at the start of its build. Pure: objects in, objects out."""

from __future__ import annotations

import datetime as dt
import random

import msgspec

from imagecache.api import ids, phases, times
from imagecache.api.types import RESOURCES, ImageCache, Phase, Status
from imagecache.errors import AlreadyExists

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
