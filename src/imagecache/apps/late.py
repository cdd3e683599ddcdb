"""The controller's builder and attacher, imported at their first use: most commands need neither HTTP nor gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imagecache.builder.build_events import BuildEvent
from imagecache.clock import Clock
from imagecache.containerd.api import Attached
from imagecache.settings.table import Settings
from imagecache.standalone.ports import BuildRequest
from imagecache.store.model import Bundle
from imagecache.store.store import Store


@dataclass(frozen=True, slots=True)
class LateBuilder:
    store: Store
    settings: Settings
    clock: Clock

    async def build(self, request: BuildRequest, emit: Callable[[BuildEvent], None]) -> Bundle:
        from imagecache.apps.build import StoreBuilder

        return await StoreBuilder(self.store, self.settings, self.clock).build(request, emit)


@dataclass(frozen=True, slots=True)
class LateAttacher:
    store: Store
    settings: Settings
    clock: Clock

    async def attach(self, bundle: Bundle) -> Attached:
        from imagecache.apps.attach import LocalAttacher

        return await LocalAttacher(self.store, self.settings, self.clock).attach(bundle)

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle] = ()) -> tuple[str, ...]:
        from imagecache.apps.attach import LocalAttacher

        return await LocalAttacher(self.store, self.settings, self.clock).detach(bundle, keep)
