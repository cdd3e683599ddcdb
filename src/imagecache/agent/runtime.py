"""The dependencies of the agent that are this machine: image records and containers of the runtime, and the disk."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagecache.agent.budget import Disk, Part
from imagecache.concurrency import run_all
from imagecache.containerd.api import ALONE, Attached, Beside, Containerd, UnpackedChain
from imagecache.containerd.attach import NodeAttacher
from imagecache.containerd.chains_in_use import chains_in_use
from imagecache.containerd.handlers import Handlers
from imagecache.errors import HostError
from imagecache.oserrors import converting
from imagecache.store.bundle_document import Bundle

_AT_ONCE = 16
"""Look-ups of image records at a time, so that a node with many images does not queue hundreds of calls."""


async def _nothing() -> None:
    pass


async def disk_of(directory: Path) -> Disk:
    """Its filesystem. Raises StoreError."""

    def look() -> Disk:
        with converting(directory):
            usage = shutil.disk_usage(directory)
        return Disk(usage.total, usage.free)

    return await asyncio.to_thread(look)


@dataclass
class ContainerdRecords:
    """``agent.dependencies.Attacher`` for proxy and native mode."""

    containerd: Containerd
    attacher: NodeAttacher
    namespace: str
    changed: Callable[[], Awaitable[None]] = _nothing
    """Called after each change of records, before this agent collects: other layers may have to be leased now."""
    mode: str = ""
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One call of ``changed`` at a time: an older look must not release what a newer one has leased."""

    async def attach(self, bundle: Bundle, also: Collection[str] = (), beside: Beside = ALONE) -> Attached:
        # asked each time: an administrator may change containerd's configuration while we run
        self.mode = (await self.attacher.choice()).mode.value
        attached = await self.attacher.attach(bundle, also, beside)
        await self._changed()
        return attached

    async def handlers(self) -> Handlers:
        return await self.attacher.handlers()

    async def lost(self, chains: Collection[UnpackedChain]) -> frozenset[UnpackedChain]:
        return await self.attacher.lost(chains)

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle], had: Collection[str] = ()) -> None:
        await self.attacher.detach(bundle, keep, had)
        await self._changed()

    async def _changed(self) -> None:
        async with self._changing:
            await self.changed()

    async def missing(self, names: Mapping[str, str]) -> frozenset[str]:
        images = self.containerd.session(self.namespace).images
        slots = asyncio.Semaphore(_AT_ONCE)

        async def is_missing(name: str) -> bool:
            async with slots:
                found = await images.get(name)
                return found is None or found.target != names[name]

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
        return await disk_of(self.store)

    async def in_use(self, documents: Iterable[Bundle], unpacked: Collection[str]) -> frozenset[Part]:
        choice = await self.attacher.choice()
        layers = [layer for document in documents for image in document.images for layer in image.layers]
        ours = await chains_in_use(self.containerd, choice.snapshotter)
        found: set[Part] = {layer.name for layer in layers if layer.chain_id in ours}
        for name in sorted(unpacked):
            known = {layer.chain_id for layer in layers}
            with contextlib.suppress(HostError):  # its program is away, or hangs: nothing of it can be freed now
                known &= await chains_in_use(self.containerd, name)
            found |= {UnpackedChain(name, chain) for chain in known}
        return frozenset(found)
