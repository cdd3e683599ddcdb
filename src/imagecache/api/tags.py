"""Whether the tags of an ImageCache still name what it was built of: ``status.images[]`` and the condition TagDrifted.

A check is a look-up of a tag. One that failed says nothing, so it changes nothing. Pure; it must not know how tags are
looked up.
"""

from __future__ import annotations

import datetime as dt
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from imagecache.api import phases, times
from imagecache.api.types import Status, StatusImage

_REMEDY = "a new value of the annotation imagecache.dev/refresh builds it anew"
WRITTEN = dt.timedelta(hours=1)
"""Between two writes of a status for the times of checks alone."""


class TagQuestion(msgspec.Struct, frozen=True):
    """A tag to be looked up, and how its registry is reached."""

    image: str
    """As written in the spec; without a digest."""
    plain_http: frozenset[str] = frozenset()
    insecure: frozenset[str] = frozenset()
    secrets: tuple[str, ...] = ()
    """``namespace:name``."""


@dataclass(frozen=True, slots=True)
class TagCheck:
    """What a tag named."""

    digest: str
    time: dt.datetime
    """When it was asked."""


def is_due(image: str, last: dt.datetime, now: dt.datetime, interval: float) -> bool:
    """Whether a tag is to be looked up that was looked up last at ``last``.

    Each image has a moment of its own within the interval (seconds), always the same: so a thousand caches that were
    built, or a controller that starts, do not ask for all of them at once, and an image of several caches is asked for
    once.
    """
    return _turn(image, last, interval) < _turn(image, now, interval)


def _turn(image: str, moment: dt.datetime, interval: float) -> int:
    return math.floor(moment.timestamp() / interval - zlib.crc32(image.encode()) / 2**32)


def carried(before: Sequence[StatusImage], images: Sequence[StatusImage]) -> tuple[StatusImage, ...]:
    """The images of a bundle, with what is known of their tags if the status has been about the same digests."""
    known = {(image.image, image.digest): image for image in before}
    return tuple(_with(image, known.get((image.image, image.digest))) for image in images)


def _with(image: StatusImage, known: StatusImage | None) -> StatusImage:
    return image if known is None else _checked(image, known.current_digest, known.last_checked_time)


def _checked(image: StatusImage, digest: str, stamp: str) -> StatusImage:
    current = "" if digest == image.digest else digest
    return replace(image, last_checked_time=stamp, current_digest=current, drifted=bool(current))


def checked(status: Status, checks: Mapping[str, TagCheck]) -> Status:
    """With the newest check of each image, by image as written.

    The very same object while nothing but their times would change and the last of them was written within the hour.
    """
    since = phases.condition(status, "Building")
    # one that was asked before the build had ended says what the tag named before the build looked it up
    begun = times.parse(since.last_transition_time) if since is not None else None
    own = {image.image for image in status.images}
    valid = {name: each for name, each in checks.items() if name in own and (begun is None or each.time >= begun)}
    images = tuple(
        _checked(image, found.digest, times.render(found.time)) if (found := valid.get(image.image)) else image
        for image in status.images
    )
    same = [each.current_digest for each in images] == [each.current_digest for each in status.images]
    if same and not _is_time(status, valid):
        return status
    return replace(status, images=images)


def _is_time(status: Status, checks: Mapping[str, TagCheck]) -> bool:
    written = max((image.last_checked_time for image in status.images), default="")
    newest = max((check.time for check in checks.values()), default=None)
    if newest is None or not written:
        return newest is not None
    return not dt.timedelta(0) <= newest - times.parse(written) < WRITTEN  # a later one is not ours


def drifted(status: Status, generation: int, now: dt.datetime) -> Status:
    """With the condition TagDrifted, from the first check on."""
    moved = dict.fromkeys(image.image for image in status.images if image.drifted)
    known = any(image.last_checked_time for image in status.images)
    if not known and phases.condition(status, "TagDrifted") is None:
        return status
    message = f"built of an earlier push of {', '.join(moved)}; {_REMEDY}" if moved else ""
    return phases.tag_drifted(status, generation, now, message=message)
