"""What the controller needs besides the Kubernetes API: builds, and a store to look into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from imagecache.api.building import BuildRequest
from imagecache.api.pull_secrets import PullSecret
from imagecache.api.types import Event
from imagecache.store.model import Bundle


@dataclass(frozen=True, slots=True)
class Job:
    """One build with its credentials."""

    request: BuildRequest
    secrets: tuple[PullSecret, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes; ``done`` only grows while a build runs, and starts where an interrupted one was."""

    done: int
    total: int


Report = Progress | Event
"""What a build tells while it runs."""


class Builder(Protocol):
    async def build(self, job: Job, report: Callable[[Report], None]) -> None:
        """Build and commit the bundle. Raises ImageCacheError; leaves a resumable state when cancelled or killed."""


class BundleStore(Protocol):
    """What of ``imagecache.store.store.Store`` the controller needs. Calls block, so they run in threads."""

    def get(self, bundle_id: str) -> Bundle:
        """Raises NotFound when there is none, StoreError when it cannot be said."""

    def delete(self, bundle_id: str) -> None:
        """Forget a bundle. Raises NotFound, StoreError."""

    def collect(self) -> int:
        """Remove what no bundle, build or node holds; bytes given back. Raises StoreError."""
