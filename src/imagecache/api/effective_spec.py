"""The effective spec of an ImageCache: with defaults, limits and annotations applied.

It decides what upstream leaves open: a field of the spec wins over its annotation; sizes below 20 GiB are raised to 20,
as upstream's backend does; without ``imc-cpu-arch`` the architecture is the caller's (on a single host, the host's).
Nothing that either published schema accepts is refused before this point. It must not do I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imagecache.api import annotations as known
from imagecache.api.assignment import node_selector
from imagecache.api.nodes import notes as own_notes
from imagecache.api.selector import Selector
from imagecache.api.types import ImageCache
from imagecache.errors import InvalidManifest, InvalidReference
from imagecache.limits import GIB
from imagecache.oci.descriptor import Platform
from imagecache.oci.reference import Reference

MAX_IMAGES = 20
"""As upstream (eci-api §5.5)."""
SIZE_DEFAULT = 20
"""GiB; also the minimum."""
SIZE_MAX = 32768
"""GiB; upstream's maximum. A larger size is accepted with a note."""
RETENTION_MAX = 65536
"""Days."""
ARCHITECTURES = ("amd64", "arm64")
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
    platform: Platform
    names_architecture: bool
    """The document names one; otherwise it is the caller's."""
    plain_http: frozenset[str]
    insecure: frozenset[str]
    nodes: Selector
    """Nodes that the cache is assigned to; in a cluster only."""
    notes: tuple[str, ...]
    """What was ignored or changed, for people."""

    @property
    def size_limit(self) -> int:
        """Bytes."""
        return self.size_gib * GIB


def effective_spec(cache: ImageCache, *, architecture: str) -> EffectiveSpec:
    """``architecture`` (GOARCH) applies when the document names none. Raises InvalidManifest."""
    keys = cache.metadata.annotations
    _check_os(keys)
    notes = [*known.notes(keys), *own_notes(keys)]
    arch = known.choice(keys, known.CPU_ARCH, ARCHITECTURES)
    return EffectiveSpec(
        images=_images(cache.spec.images, notes),
        pull_secrets=_secrets(cache.spec.image_pull_secrets),
        size_gib=_size(cache, notes),
        retention_days=_retention(cache, notes),
        platform=Platform(os="linux", architecture=arch or architecture),
        names_architecture=arch is not None,
        plain_http=known.registries(keys, known.PLAIN_HTTP),
        insecure=known.registries(keys, known.INSECURE),
        nodes=node_selector(keys),
        notes=tuple(notes),
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
                f"spec.imagePullSecrets[{index}]: {secret[:120]!r} is not namespace:name",
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
