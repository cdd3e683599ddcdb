"""Who owns a name on a node: of several ImageCaches whose images have one name, one has it in the runtime.

The one of higher priority, then the older one. The images of the others are recorded by digest alone, until the owner
goes. Images that are the same have their name together. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from imagecache.api import times
from imagecache.api.nodes import priority
from imagecache.containerd.image_records import tag_name
from imagecache.digest import Digest
from imagecache.store.bundle_document import Bundle
from imagecache.written import printable

Rank = tuple[int, float, str]
"""The least comes first: priority, negative; seconds since the epoch of its creation; name of the ImageCache."""


NO_RANK: Rank = (0, 0.0, "")


@dataclass(frozen=True, slots=True)
class Claim:
    """A bundle of this node, and the names that its images have, or would have if no other bundle owned them."""

    document: Bundle
    cache: str
    rank: Rank
    names: Collection[str]


def rank(cache: str, annotations: Mapping[str, str], created: str) -> Rank:
    return -priority(annotations), times.seconds(created), cache


def by_rank(claims: Iterable[Claim]) -> list[Claim]:
    return sorted(claims, key=lambda claim: (claim.rank, claim.document.id))


def taken(bundle_id: str, claims: Collection[Claim]) -> dict[str, str]:
    """Names by tag of this bundle's images that another ImageCache owns, and its name; none if it claims nothing."""
    own = next((claim for claim in claims if claim.document.id == bundle_id), None)
    if own is None:
        return {}
    images = _images(own)
    owners: dict[str, tuple[str, Digest]] = {}
    for claim in by_rank(claims):
        if claim is own:
            found = images
        elif claim.cache == own.cache:  # an earlier bundle of its own, which goes
            continue
        else:
            found = {name: target for name, target in _images(claim).items() if name in claim.names}
        for name in images.keys() & found.keys() - owners.keys():
            owners[name] = (claim.cache, found[name])
    return {name: cache for name, (cache, target) in owners.items() if target != images[name]}


def names_taken(owners: Mapping[str, str]) -> str:
    """For people."""
    words = (f"{name} (ImageCache {cache})" for name, cache in sorted(owners.items()))
    return printable(f"names that mean another image here, since another ImageCache owns them: {', '.join(words)}")


def _images(claim: Claim) -> dict[str, Digest]:
    """What each name by tag means to the bundle."""
    images = claim.document.images
    return {name: image.target.digest for image in images if (name := tag_name(image))}
