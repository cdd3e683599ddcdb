"""The dependencies of the agent that are this machine: image records and containers of the runtime, and the disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.agent.budget import Disk
from imagecache.concurrency import run_all
from imagecache.containerd.api import Attached, Containerd
from imagecache.containerd.attach import NodeAttacher
from imagecache.containerd.chains_in_use import chains_in_use
from imagecache.oserrors import converting
from imagecache.store.bundle_document import Bundle
from imagecache.store.layer_name import LayerName

_AT_ONCE = 16
"""Look-ups of image records at a time, so that a node with many images does not queue hundreds of calls."""


async def _nothing() -> None:
    pass


@dataclass
class ContainerdRecords:
    """``agent.dependencies.Attacher`` for proxy and native mode."""

    containerd: Containerd
    attacher: NodeAttacher
    namespace: str
    changed: Callable[[], Awaitable[None]] = _nothing
    """Called after each change of records, before this agent collects: other layers may have to be leased now."""
    mode: str = ""

    async def attach(self, bundle: Bundle) -> Attached:
        # asked each time: an administrator may change containerd's configuration while we run
        self.mode = (await self.attacher.choice()).mode.value
        attached = await self.attacher.attach(bundle)
        await self.changed()
        return attached

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle]) -> None:
        await self.attacher.detach(bundle, keep)
        await self.changed()

    async def missing(self, names: Iterable[str]) -> frozenset[str]:
        images = self.containerd.session(self.namespace).images
        slots = asyncio.Semaphore(_AT_ONCE)

        async def is_missing(name: str) -> bool:
            async with slots:
                return await images.get(name) is None

        wanted = sorted(names)
        gone = await run_all(*map(is_missing, wanted))
        return frozenset(name for name, missing in zip(wanted, gone, strict=True) if missing)


@dataclass
class LocalMachine:
    """``agent.dependencies.Machine``."""

    store: Path
    containerd: Containerd
    attacher: NodeAttacher

    async def disk(self) -> Disk:
        return await asyncio.to_thread(self._disk)

    def _disk(self) -> Disk:
        with converting(self.store):
            usage = shutil.disk_usage(self.store)
        return Disk(usage.total, usage.free)

    async def in_use(self, documents: Iterable[Bundle]) -> frozenset[LayerName]:
        choice = await self.attacher.choice()
        chains = await chains_in_use(self.containerd, choice.snapshotter)
        layers = (layer for document in documents for image in document.images for layer in image.layers)
        return frozenset(layer.name for layer in layers if layer.chain_id in chains)
