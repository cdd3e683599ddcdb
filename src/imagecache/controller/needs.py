"""What has to be looked at before deciding about an ImageCache, because a look costs a request or the disk. Pure."""

from __future__ import annotations

from imagecache.api import phases
from imagecache.api.types import ImageCache, Phase
from imagecache.controller import failures
from imagecache.controller.decision import Broken
from imagecache.errors import PullSecretUnavailable


def needs_secrets(cache: ImageCache, build: object) -> bool:
    """Whether the secrets must be looked at before deciding: nothing is running, and they may say whether to begin."""
    status = cache.status
    if build is not None or status is None or status.phase not in phases.FAILED:
        return build is None and not (status and status.phase is Phase.READY)
    reason = phases.failure(status)
    return reason == PullSecretUnavailable.__name__ or failures.is_of_access(reason)


def needs_configuration(cache: ImageCache, build: object) -> bool:
    """Whether the configuration of registries must be looked at before deciding: it may be why a build failed."""
    failed = isinstance(build, Broken) and failures.is_of_access(build.error.reason)
    return failed or (cache.status is not None and failures.is_of_access(phases.outcome(cache.status)[0]))
