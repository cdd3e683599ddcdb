"""Fakes of ``imagecache.agent.dependencies``: a cluster and a machine of which a test sets everything.

They behave as the real ones where the loop relies on it: watches yield everything at first and then every change,
records belong to names, and a runtime or an API server may be away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from imagecache.agent.budget import Disk, Part
from imagecache.agent.dependencies import Node
from imagecache.api.assignment import Cache
from imagecache.api.nodes import NodeStatus
from imagecache.containerd import image_records
from imagecache.containerd.api import ALONE, Attached, Beside, UnpackedChain
from imagecache.containerd.attach import taken_of
from imagecache.containerd.handlers import Handlers
from imagecache.containerd.prepull import RuntimeImage
from imagecache.digest import Digest
from imagecache.errors import ContainerdUnavailable, ImageCacheError, PullFailed
from imagecache.limits import GIB
from imagecache.store.bundle_document import Bundle, ImageRecord
from imagecache.store.layer_name import LayerName

_T = TypeVar("_T")


class _Watched(Generic[_T]):
    """A value whose changes are yielded; of several at one time, the newest."""

    def __init__(self) -> None:
        self.value: _T | None = None
        self._known = False
        self._changed = asyncio.Event()

    def set(self, value: _T) -> None:
        self.value, self._known = value, True
        self._changed.set()

    async def watch(self) -> AsyncIterator[_T]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            yield self.value  # type: ignore[misc]  # set before the event


@dataclass
class FakeCaches:
    """Silent until ``put`` or ``show`` is called."""

    caches: dict[str, Cache] = field(default_factory=dict)
    silent: bool = False
    """As an API server that is away."""
    as_shown: Callable[[Cache], Cache] = lambda cache: cache
    """A cache as the API server has it when it is shown."""
    _watched: _Watched[list[Cache]] = field(default_factory=_Watched)

    def put(self, *caches: Cache) -> None:
        self.caches.update({cache.name: cache for cache in caches})
        self.show()

    def delete(self, name: str) -> None:
        del self.caches[name]
        self.show()

    def show(self) -> None:
        if not self.silent:
            self._watched.set(list(map(self.as_shown, self.caches.values())))

    async def watch(self) -> AsyncIterator[Sequence[Cache]]:
        async for caches in self._watched.watch():
            yield caches


@dataclass
class FakeNodes:
    node: Node | None = field(default_factory=lambda: Node("uid-1", {"pool": "gpu"}))
    failure: ImageCacheError | None = None
    untainted: int = 0
    _watched: _Watched[Node | None] = field(default_factory=_Watched)

    def set(self, node: Node | None) -> None:
        self.node = node
        self._watched.set(node)

    async def watch(self) -> AsyncIterator[Node | None]:
        self.set(self.node)
        async for node in self._watched.watch():
            yield node

    async def untaint(self) -> None:
        if self.failure is not None:
            raise self.failure
        assert self.node is not None
        self.untainted += 1
        self.set(replace(self.node, tainted=False))


@dataclass
class FakeMachine:
    size: Disk = field(default_factory=lambda: Disk(100 * GIB, 90 * GIB))
    """Without what the store takes."""
    stored: Callable[[], int] = lambda: 0
    """Bytes that the store takes."""
    used: set[LayerName] = field(default_factory=set)
    looks: int = 0
    """How often ``disk`` was called: once a round."""

    async def disk(self) -> Disk:
        self.looks += 1
        return replace(self.size, free=self.size.free - self.stored())

    async def in_use(self, documents: Iterable[Bundle], unpacked: Collection[str]) -> frozenset[Part]:
        del unpacked
        names = {name for document in documents for name in document.layer_names()}
        return frozenset(self.used & names)


@dataclass
class FakeAttacher:
    """Records by name; private images get none, as in CRI's namespace."""

    records: dict[str, Digest] = field(default_factory=dict)
    running: bool = True
    failures: dict[str, ImageCacheError] = field(default_factory=dict)
    """By bundle id, raised by ``attach``."""
    attaches: list[str] = field(default_factory=list)
    """Bundle ids, in order."""
    mode: str = "proxy"
    found: Handlers = field(default_factory=Handlers)
    """Runtime handlers with snapshotters of their own."""
    unpacked: set[UnpackedChain] = field(default_factory=set)

    async def attach(self, bundle: Bundle, also: Collection[str] = (), beside: Beside = ALONE) -> Attached:
        self._check()
        if bundle.id in self.failures:
            raise self.failures[bundle.id]
        self.attaches.append(bundle.id)
        made: dict[str, Digest] = {}
        for image in bundle.images:
            made |= {} if image.private else _records(image)
        made = {name: target for name, target in made.items() if name not in beside.taken}
        self.records |= made
        snapshotters = self.found.unpacked(also)
        layers = [layer.chain_id for image in bundle.images for layer in image.layers]
        self.unpacked |= {UnpackedChain(name, chain) for name in snapshotters for chain in layers}
        return Attached(
            {name: str(target) for name, target in made.items()},
            tuple(image.reference for image in bundle.images if image.private),
            unpacked=snapshotters,
            left_out=self.found.left_out(also),
            handlers=self.found,
            taken=taken_of(bundle, beside),
        )

    async def handlers(self) -> Handlers:
        self._check()
        return self.found

    async def lost(self, chains: Collection[UnpackedChain]) -> frozenset[UnpackedChain]:
        self._check()
        return frozenset(chains) - self.unpacked

    async def detach(self, bundle: Bundle, keep: Sequence[Bundle], had: Collection[str] = ()) -> None:
        self._check()
        heirs: dict[str, Digest] = {}
        for other in keep:
            for image in other.images:
                heirs = _records(image) | heirs
        for image in bundle.images:
            for name, target in _records(image).items():
                if self.records.get(name) != target or name in had:
                    continue
                if name in heirs:
                    self.records[name] = heirs[name]
                else:
                    del self.records[name]

    async def missing(self, names: Mapping[str, str]) -> frozenset[str]:
        self._check()
        return frozenset(name for name, target in names.items() if self.records.get(name) != target)

    def _check(self) -> None:
        if not self.running:
            raise ContainerdUnavailable("containerd has no socket at /fake.sock", hint="start containerd")


def _records(image: ImageRecord) -> dict[str, Digest]:
    return dict.fromkeys((*image_records.names(image), image_records.image_id(image)), image.target.digest)


@dataclass
class FakeRuntime:
    """Fake of ``containerd.prepull.Runtime``: pulls what is in ``registry``."""

    registry: dict[str, str] = field(default_factory=dict)
    """Image ids by name."""
    images: dict[str, str] = field(default_factory=dict)
    """Pulled ones, likewise."""
    used: set[str] = field(default_factory=set)
    """Ids of containers' images."""
    lost: frozenset[str] = frozenset()
    """Names that it does not have after a pull."""
    pulls: list[str] = field(default_factory=list)
    pinned: set[str] = field(default_factory=set)
    """Ids of images."""
    running: bool = True

    async def pull(self, name: str) -> None:
        self._check()
        self.pulls.append(name)
        if name not in self.registry:
            raise PullFailed(f"failed to resolve {name}: not found", image=name)
        if name not in self.lost:
            self.images[name] = self.registry[name]

    async def image(self, name: str) -> RuntimeImage | None:
        self._check()
        found = self.images.get(name)
        if found is None:
            return None
        names = frozenset(name for name, each in self.images.items() if each == found)
        return RuntimeImage(found, names, found in self.pinned)

    async def remove(self, name: str) -> None:
        self._check()
        gone = self.images.get(name)
        self.images = {name: each for name, each in self.images.items() if each != gone}

    async def in_use(self) -> frozenset[str]:
        self._check()
        return frozenset(self.used)

    def _check(self) -> None:
        if not self.running:
            raise ContainerdUnavailable("the runtime has no socket at /fake.sock", hint="start it")


@dataclass
class FakeReporter:
    """Every status that was written."""

    written: list[NodeStatus] = field(default_factory=list)
    failure: ImageCacheError | None = None

    async def report(self, status: NodeStatus, node: Node) -> None:
        del node
        if self.failure is not None:
            raise self.failure
        self.written.append(status)
