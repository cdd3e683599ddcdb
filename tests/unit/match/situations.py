"""Pods and caches for tests of the match."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from imagecache.api import ids
from imagecache.api.types import Phase
from imagecache.match.index import Index
from imagecache.match.verdict import match
from imagecache.match.views import CacheView, Defaults, PodView, Verdict

NOW = dt.datetime(2026, 1, 1, 12, 0, 0, tzinfo=dt.UTC)
NGINX, BUSYBOX = "nginx:1.25", "busybox:1.36"
DIGEST, OTHER_DIGEST = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
NOTHING: Mapping[str, str] = {}


def cache(name: str, *images: str, phase: Phase = Phase.READY, days: int = 0, size: int = 1000) -> CacheView:
    """One that is ``days`` old."""
    uid = f"uid-of-{name}"
    cache_id, created = ids.derived_cache_id(uid), NOW - dt.timedelta(days=days)
    return CacheView(name=name, uid=uid, id=cache_id, phase=phase, images=images, created=created, size=size)


def pod(*images: str, asks: Mapping[str, str] = NOTHING, node: str = "", secrets: tuple[str, ...] = ()) -> PodView:
    return PodView("team", "web", "uid-of-web", images, annotations=asks, pull_secrets=secrets, node=node)


def verdict(of: PodView, *caches: CacheView, defaults: Defaults | None = None) -> Verdict:
    return match(of, defaults or Defaults(), Index(caches))


def reasons(found: Verdict) -> list[str]:
    return [event.reason for event in found.events]
