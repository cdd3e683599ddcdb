"""Attaches and detaches beside each other, and what they owe to bundles with the same images."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagecache.agent.attachments import Attachments
from imagecache.agent.state import NodeState
from imagecache.api.assignment import Cache
from imagecache.containerd.api import ALONE, Attached, Beside
from imagecache.containerd.handlers import Handlers
from imagecache.store.bundle_document import Bundle
from imagecache.telemetry.metrics import Metrics
from testkit.agent_dependencies import FakeAttacher
from testkit.attachable import MemoryDocuments, bundle
from testkit.clock import FakeClock
from tests.unit.plain_host.bench import eventually

_DOCUMENTS = MemoryDocuments()
ONE, TWO = (_DOCUMENTS.image(name, ["base", name]) for name in ("one:1", "two:1"))
_SECONDS = 10


@dataclass
class Hanging(FakeAttacher):
    """An attach of a bundle in ``hangs`` waits for ``gate``."""

    hangs: set[str] = field(default_factory=set)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)

    async def attach(self, bundle: Bundle, also: Collection[str] = (), beside: Beside = ALONE) -> Attached:
        self.begun.append(bundle.id)
        if bundle.id in self.hangs:
            await self.gate.wait()
        return await super().attach(bundle, also, beside)


@pytest.fixture
def attacher() -> Hanging:
    return Hanging(found=Handlers({"kata": "devmapper"}, frozenset({"devmapper"})))


@pytest.fixture
def attachments(attacher: Hanging, tmp_path: Path) -> Attachments:
    state = NodeState(tmp_path / "nodes" / "worker")
    state.load()
    return Attachments(attacher, state, FakeClock(), Metrics(), at_once=2)


def _cache(name: str, document: Bundle, *also: str) -> Cache:
    return Cache(name, document.id, ready=True, also_unpack=also)


async def test_one_that_hangs_stops_neither_an_attach_nor_a_detach(attacher: Hanging, attachments: Attachments) -> None:
    slow, fast = bundle(ONE), bundle(TWO, number=1)
    attacher.hangs = {slow.id}
    hanging = asyncio.create_task(attachments.attach(slow, _cache("a", slow)))
    async with asyncio.timeout(_SECONDS):
        await attachments.attach(fast, _cache("b", fast))
        await attachments.detach(fast, lambda: ())
    assert not hanging.done()
    attacher.gate.set()
    await hanging
    assert attachments.attached.keys() == {slow.id}


async def test_bundles_with_the_same_image_wait_for_each_other(attacher: Hanging, attachments: Attachments) -> None:
    first, second = bundle(ONE), bundle(TWO, ONE, number=1)
    attacher.hangs = {first.id}
    works = [
        asyncio.create_task(attachments.attach(first, _cache("a", first))),
        asyncio.create_task(attachments.attach(second, _cache("b", second))),
        asyncio.create_task(attachments.detach(first, lambda: {second.id})),
    ]
    await eventually(lambda: attacher.begun)
    for _ in range(20):  # in which the others would begin, too
        await asyncio.sleep(0.001)
    assert attacher.begun == [first.id]
    attacher.gate.set()
    async with asyncio.timeout(_SECONDS):
        await asyncio.gather(*works)
    assert attachments.attached.keys() == {second.id}


async def test_an_image_that_only_another_cache_wanted_elsewhere_is_attached_again(attachments: Attachments) -> None:
    """The next attach takes it out of that snapshotter."""
    wants, refuses, other = bundle(ONE), bundle(ONE, number=1), bundle(TWO, number=2)
    await attachments.attach(wants, _cache("a", wants))
    await attachments.attach(refuses, _cache("b", refuses, "off"))
    await attachments.attach(other, _cache("c", other, "off"))
    await attachments.detach(wants, attachments.attached.keys)
    assert attachments.attached.keys() == {refuses.id, other.id}
    await attachments.forget(wants.id)
    assert attachments.attached.keys() == {other.id}
    await attachments.forget(wants.id)
