"""The controller's builder and attacher, imported at their first use: most commands need neither HTTP nor gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imagecache.build.events import BuildEvent
from imagecache.cli.settings import Settings
from imagecache.clock import Clock
from imagecache.standalone.ports import Attached, BuildRequest
from imagecache.store.model import SnapshotDocument
from imagecache.store.store import Store


@dataclass(frozen=True, slots=True)
class LateBuilder:
    store: Store
    settings: Settings
    clock: Clock

    async def build(self, request: BuildRequest, emit: Callable[[BuildEvent], None]) -> SnapshotDocument:
        from imagecache.apps.build import StoreBuilder

        return await StoreBuilder(self.store, self.settings, self.clock).build(request, emit)


@dataclass(frozen=True, slots=True)
class LateAttacher:
    store: Store
    settings: Settings
    clock: Clock

    async def attach(self, snapshot: SnapshotDocument) -> Attached:
        from imagecache.apps.attach import LocalAttacher

        return await LocalAttacher(self.store, self.settings, self.clock).attach(snapshot)

    async def detach(self, snapshot: SnapshotDocument, keep: Sequence[SnapshotDocument] = ()) -> tuple[str, ...]:
        from imagecache.apps.attach import LocalAttacher

        return await LocalAttacher(self.store, self.settings, self.clock).detach(snapshot, keep)
