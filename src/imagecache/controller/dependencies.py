"""What the controller needs besides the Kubernetes API: builds, a store, and a claim on the objects that it changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from imagecache.api.building import BuildRequest
from imagecache.api.pull_secrets import PullSecret
from imagecache.api.tags import TagQuestion
from imagecache.builder.build_events import BuildEvent
from imagecache.errors import ImageCacheError
from imagecache.store.bundle_document import Bundle
from imagecache.store.collect import Collected
from imagecache.store.layer_name import LayerName


class Builder(Protocol):
    """``build_process.ProcessBuilder``, and ``apps.build.LocalBuilder`` for a command that shows its progress."""

    async def build(
        self, request: BuildRequest, credentials: Sequence[PullSecret], emit: Callable[[BuildEvent], None]
    ) -> None:
        """Build and commit the bundle. Raises ImageCacheError; leaves a resumable state when cancelled or killed."""


class TagReader(Protocol):
    """``tag_process.ProcessTagReader``; the fake is in ``testkit.tags``."""

    async def read(
        self, questions: Sequence[TagQuestion], secrets: Sequence[PullSecret]
    ) -> Mapping[TagQuestion, str | ImageCacheError]:
        """The digest that each tag names, or why that could not be found out. ``secrets``: all that are named.

        Raises InternalError when nobody could ask.
        """


class BundleStore(Protocol):
    """What the controller needs of a store. Calls block, so they run in threads."""

    def ids(self, owner: str) -> Collection[str]:
        """Of the bundles of one object (``ids.owner``); asked at every look, so it must be cheap. Raises StoreError."""

    def get(self, bundle_id: str) -> Bundle:
        """Raises NotFound when the store has none, StoreError when it cannot be read."""

    def delete(self, bundle_id: str) -> None:
        """Forget a bundle. Raises NotFound, StoreError."""

    def layers(self) -> Mapping[str, Mapping[LayerName, int]]:
        """The layer images that its bundles name, with their bytes, by id of the bundle. Raises StoreError."""

    def hold(self, bundle_id: str) -> AbstractContextManager[object]:
        """Keep the layer images that the running build of a bundle has made, until the end of the context.

        It keeps them from its call on. Raises StoreError.
        """

    def collect(self) -> Collected:
        """Remove what no bundle, build or node holds. Raises StoreError."""


class Claims(Protocol):
    """Who may change an object where several processes do."""

    def take(self, name: str, resource_version: str) -> bool:
        """Claim the object of that version, until ``release``. False: another process has claimed or changed it."""

    def release(self, name: str) -> None:
        """Idempotent."""


class Unclaimed:
    """``Claims`` where nobody else changes objects: the leader of a cluster, or a command that holds the claim."""

    def take(self, name: str, resource_version: str) -> bool:
        del name, resource_version
        return True

    def release(self, name: str) -> None:
        del name
