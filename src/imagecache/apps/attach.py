"""Attach and detach wired for one host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from imagecache.clock import Clock
from imagecache.containerd.also_unpack import AlsoUnpacker, Tars
from imagecache.containerd.api import ALONE, Attached, Beside, Documents
from imagecache.containerd.attach import AttachSettings, NodeAttacher
from imagecache.containerd.client import ContainerdClient
from imagecache.containerd.layer_tars import LayerTars
from imagecache.containerd.native import NativeUse, holder_of
from imagecache.containerd.reserved import ReservedNames
from imagecache.settings.table import Settings
from imagecache.store.bundle_document import Bundle
from imagecache.store.store import Store


@dataclass(frozen=True, slots=True)
class LocalAttacher:
    """``plain_host.node.Attacher``: the containerd at ``settings.address``, connected for each call."""

    store: Store
    settings: Settings
    clock: Clock

    async def attach(self, bundle: Bundle, also: Collection[str] = (), beside: Beside = ALONE) -> Attached:
        async with ContainerdClient(self.settings.address, self.clock) as containerd:
            return await self.attacher(containerd).attach(bundle, also, beside)

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle] = (), had: Collection[str] = ()) -> tuple[str, ...]:
        async with ContainerdClient(self.settings.address, self.clock) as containerd:
            removed = await self.attacher(containerd).detach(bundle, keep, had)
            # what native containers stand on is held before anybody collects
            await NativeUse(containerd, self.store.root / "layers").renew(
                self.store.leases, holder_of(self.settings.address)
            )
            return removed

    def attacher(
        self,
        containerd: ContainerdClient,
        documents: Documents | None = None,
        tars: Tars | None = None,
        room: Callable[[], Awaitable[int]] | None = None,
    ) -> NodeAttacher:
        """``documents`` and ``tars`` of the images, where they are not in ``store``; ``room``: see ``AlsoUnpacker``."""
        settings = AttachSettings(
            namespace=self.settings.namespace,
            snapshotter=self.settings.snapshotter,
            mode=self.settings.mode,
            allow_private_names=frozenset(self.settings.allow_private_names),
            reserved=ReservedNames.parse(self.settings.reserved_names),
            also_unpack=self.settings.also_unpack,
        )
        unpacker = AlsoUnpacker(tars or LayerTars(self.store.layers), self.clock, room)
        return NodeAttacher(containerd, documents or self.store.blobs, self.clock, settings, unpacker=unpacker)
