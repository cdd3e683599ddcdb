"""The effective spec of an ImageCache: with defaults, limits and annotations applied.

It decides what upstream leaves open: a field of the spec wins over its annotation; sizes below 20 GiB are raised to 20,
as upstream's backend does; without ``imc-cpu-arch`` the architectures are the caller's (of the cluster's nodes; on a
single host, its own). Nothing that either published schema accepts is refused before this point. It must not do I/O.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass

from imagecache.api import annotations as known
from imagecache.api import refresh, times
from imagecache.api.assignment import Target, named_platforms, node_selector
from imagecache.api.nodes import notes as own_notes
from imagecache.api.schedule import Schedule
from imagecache.api.selector import Selector
from imagecache.api.types import ImageCache, Status
from imagecache.errors import InvalidManifest, InvalidReference
from imagecache.limits import GIB
from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import parse_platform
from imagecache.oci.reference import Reference
from imagecache.written import refusal

MAX_IMAGES = 20
"""As upstream (eci-api §5.5)."""
SIZE_DEFAULT = 20
"""GiB; also the minimum."""
SIZE_MAX = 32768
"""GiB; upstream's maximum. A larger size is accepted with a note."""
RETENTION_MAX = 65536
"""Days."""
# a DNS label (namespace) and a DNS subdomain (name of the Secret), RFC 1123
_SECRET = re.compile(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?):([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)")


@dataclass(frozen=True, slots=True)
class EffectiveSpec:
    """Everything that a build, and the assignment to nodes, need of the document."""

    images: tuple[str, ...]
    pull_secrets: tuple[str, ...]
    """``namespace:name``."""
    size_gib: int
    retention_days: int | None
    """None: never expires."""
    platforms: tuple[Platform, ...]
    names_architecture: bool
    """The document names them, so every image must have them; otherwise they are the caller's."""
    plain_http: frozenset[str]
    insecure: frozenset[str]
    nodes: Selector
    """Nodes that the cache is assigned to; in a cluster only."""
    notes: tuple[str, ...]
    """What was ignored or changed, for people."""
    revision: str = ""
    """Of the content: another one when the same images are to be built anew (``refresh.revision``)."""
    schedule: Schedule | None = None
    """When they are by themselves."""
    schedule_problem: str = ""
    """Why the schedule that the document has cannot be read, and what to do."""
    due: str = ""
    """The newest time of the schedule that is past; empty without one, and where nobody asked for it."""

    @property
    def size_limit(self) -> int:
        """Bytes."""
        return self.size_gib * GIB

    def target(self, status: Status) -> Target:
        """The nodes that it is for: those whose platform it has images for, before there are any those it asks for."""
        built = tuple(filter(None, (parse_platform(image.platform) for image in status.images)))
        return Target(self.nodes, tuple(dict.fromkeys(built)) or self.platforms)


def effective_spec(cache: ImageCache, *, architectures: Sequence[str], now: dt.datetime | None = None) -> EffectiveSpec:
    """``architectures`` (GOARCH) apply when the document names none, ``now`` says what is due.

    Raises InvalidManifest.
    """
    keys = cache.metadata.annotations
    _check_os(keys)
    schedule, problem = refresh.schedule(keys)
    notes = [*known.notes(keys), *own_notes(keys)]
    named = named_platforms(keys)
    return EffectiveSpec(
        images=_images(cache.spec.images, notes),
        pull_secrets=_secrets(cache.spec.image_pull_secrets),
        size_gib=_size(cache, notes),
        retention_days=_retention(cache, notes),
        platforms=named or tuple(Platform(os="linux", architecture=each) for each in architectures),
        names_architecture=bool(named),
        plain_http=known.registries(keys, known.PLAIN_HTTP),
        insecure=known.registries(keys, known.INSECURE),
        nodes=node_selector(keys),
        notes=tuple(notes),
        revision=refresh.revision(keys),
        schedule=schedule,
        schedule_problem=problem,
        due=times.render(schedule.last(now)) if schedule is not None and now is not None else "",
    )


def _check_os(keys: dict[str, str]) -> None:
    if known.choice(keys, known.OS_TYPE, ("linux", "windows")) == "windows":
        raise InvalidManifest(
            f"{known.field(known.OS_TYPE)}: Windows images cannot be cached: layers are mounted by Linux",
            hint='remove the annotation or set it to "linux"',
        )


def _images(images: tuple[str, ...], notes: list[str]) -> tuple[str, ...]:
    if len(images) > MAX_IMAGES:
        raise InvalidManifest(
            f"spec.images: {len(images)} images, at most {MAX_IMAGES} are allowed", hint="create a second ImageCache"
        )
    for index, image in enumerate(images):
        try:
            Reference.parse(image)
        except InvalidReference as error:
            raise InvalidManifest(f"spec.images[{index}]: {error}", hint=error.hint, image=image) from error
        if image in images[:index]:
            notes.append(f"spec.images[{index}]: {image} is repeated")
    return tuple(dict.fromkeys(images))


def _secrets(secrets: tuple[str, ...]) -> tuple[str, ...]:
    for index, secret in enumerate(secrets):
        if not _SECRET.fullmatch(secret):
            raise InvalidManifest(
                refusal(f"spec.imagePullSecrets[{index}]: {secret[:120]!r} is not namespace:name", secret),
                hint='write it as "default:my-secret"',
            )
    return tuple(dict.fromkeys(secrets))


def _size(cache: ImageCache, notes: list[str]) -> int:
    size = _spec_or_annotation(cache.spec.image_cache_size, "spec.imageCacheSize", cache, known.SIZE, notes)
    if size is None:
        return SIZE_DEFAULT
    if size < SIZE_DEFAULT:
        notes.append(f"spec.imageCacheSize: {size} GiB is raised to {SIZE_DEFAULT}")
    if size > SIZE_MAX:
        notes.append(f"spec.imageCacheSize: {size} GiB is more than Alibaba Cloud allows ({SIZE_MAX})")
    return max(size, SIZE_DEFAULT)  # never refused: upstream accepts such documents


def _retention(cache: ImageCache, notes: list[str]) -> int | None:
    days = _spec_or_annotation(cache.spec.retention_days, "spec.retentionDays", cache, known.RETENTION_DAYS, notes)
    if days is not None and not 0 <= days <= RETENTION_MAX:
        raise InvalidManifest(
            f"spec.retentionDays: {days} is not between 1 and {RETENTION_MAX}",
            hint="omit it, or write 0, to keep the cache for ever",
        )
    if days == 0:
        notes.append("spec.retentionDays: 0 keeps the cache for ever, as without it")
    return days or None  # 0 means omitted (eci-api §1.2)


def _spec_or_annotation(value: int | None, path: str, cache: ImageCache, key: str, notes: list[str]) -> int | None:
    other = known.whole_number(cache.metadata.annotations, key)
    if value is None:
        return other
    if other is not None and other != value:
        notes.append(f"{known.field(key)}: {other} is ignored, {path} is {value}")
    return value
