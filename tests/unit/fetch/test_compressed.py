"""Layers that arrive in compressed blocks: the same files, whatever the store makes of the blocks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
import zstandard
from structlog.testing import capture_logs

from imagecache.builder.worker_pool import WorkerPool
from imagecache.errors import DigestMismatch, ImageCacheError, NotFound, StoreUnreachable
from imagecache.fetch.bundle import BundleFetcher
from imagecache.fetch.prefetch import BuildPrefetcher
from imagecache.fetch.transfer import FetchSettings, LayerFetcher
from imagecache.fetch.verifier import Proof, Verifier
from imagecache.fetch.wire_form import WireForm
from imagecache.layer import frames
from imagecache.oci.descriptor import Platform
from imagecache.served.protocol import BLOCK
from imagecache.settings.choices import StoreCompression
from imagecache.store.layer_name import Space
from imagecache.store.store import Store
from testkit.images import tar_of
from testkit.served import MemoryRemoteStore
from tests.unit.fetch.origin import PREFETCH, Fetchers, Origin

AMD64 = Platform(os="linux", architecture="amd64")
ID = "imc-" + "a" * 20
TEXT = b"".join(f"line {number}\n".encode() for number in range(1_500_000))
BASE = tar_of({"etc": None, "etc/text": TEXT})
"""Three blocks, the last one shorter."""
ABOVE = tar_of({"opt/app": TEXT[: 9 << 20]})
"""Its parent is implied: it is proven when it is whole, above the layer below."""


def always(fetchers: Fetchers) -> BundleFetcher:
    return fetchers(FetchSettings(), WireForm(StoreCompression.ALWAYS))


async def fetch(fetcher: BundleFetcher, remote: MemoryRemoteStore) -> list[int]:
    progress: list[int] = []
    await fetcher.fetch(await fetcher.describe(remote.expected(ID)), progress.append)
    return progress


async def arrives(origin: Origin, node: Store, fetcher: BundleFetcher) -> list[int]:
    """The bundle, and each of its layers byte for byte; returns the progress."""
    document = origin.remote.bundles[ID]
    progress = await fetch(fetcher, origin.remote)
    theirs = Store(origin.root)
    for name in document.layer_names():
        assert node.layers.path(name).read_bytes() == theirs.layers.path(name).read_bytes()
    assert list(node.paths.downloads.iterdir()) == []
    return progress


async def test_compressed(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE)
    (layer,) = document.images[0].layers
    assert layer.size > 2 * BLOCK

    progress = await arrives(origin, node, always(fetchers))

    assert sum(origin.remote.fetched.values()) < layer.size // 3
    assert progress == sorted(progress)
    assert progress[-1] == layer.size


async def test_a_store_that_sends_blocks_as_they_are(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    await origin.build(ID, BASE)
    origin.remote.packs = False

    await arrives(origin, node, always(fetchers))


async def test_what_is_proven_when_it_is_whole(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE, ABOVE)
    above = document.images[0].layers[1]
    assert above.name.space is Space.CHAINS

    await arrives(origin, node, always(fetchers))

    assert origin.remote.fetched[above.name] < above.size // 3


async def test_a_worker_is_there_for_one_layer_at_a_time(
    origin: Origin, node: Store, remote: MemoryRemoteStore
) -> None:
    """Layers that arrive together wait for it, and those above for what they are proven on."""
    await origin.build(ID, BASE, ABOVE, tar_of({"opt/other": TEXT[: 9 << 20]}))
    async with WorkerPool(1) as pool:
        form = WireForm(StoreCompression.ALWAYS)
        layers = LayerFetcher(node, remote, Verifier(pool), form=form)
        builds = BuildPrefetcher(node, remote, LayerFetcher(node, remote, Verifier(pool), PREFETCH), "amd64")
        async with asyncio.timeout(60):
            await arrives(origin, node, BundleFetcher(node, remote, layers, builds, AMD64))
        layers.close()


async def test_both_forms_are_measured(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    document = await origin.build(ID, tar_of({"text": 4 * TEXT}))
    (layer,) = document.images[0].layers
    assert layer.size > 6 * BLOCK
    form = WireForm(StoreCompression.AUTO)

    await arrives(origin, node, fetchers(FetchSettings(), form))

    assert min(form._plain.mean, form._packed.mean, form._unpacking.mean) > 0
    assert 3 * BLOCK < origin.remote.fetched[layer.name] < layer.size - 2 * BLOCK


@pytest.mark.parametrize("problem", [NotFound("no such path"), StoreUnreachable("no answer")])
async def test_a_store_without_blocks(
    origin: Origin, node: Store, fetchers: Fetchers, problem: ImageCacheError
) -> None:
    """Layers arrive as they are, and it is known that this form is the faster one."""
    await origin.build(ID, tar_of({"text": 4 * TEXT}))
    origin.remote.no_blocks = problem
    form = WireForm(StoreCompression.AUTO)

    await arrives(origin, node, fetchers(FetchSettings(), form))

    assert [form.packed() for _ in range(9)] == [False] * 9


async def test_who_unpacks_cannot_prove_what_it_has_made_itself(
    origin: Origin, fetchers: Fetchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte behind the tar is another one, and the process that proves was taken over: it says that all is well."""
    document = await origin.build(ID, BASE)
    (layer,) = document.images[0].layers
    content = origin.remote.layers[layer.name]
    origin.remote.layers[layer.name] = content[:-1] + bytes([content[-1] ^ 1])

    async def finish(_proof: Proof) -> None:
        pass

    monkeypatch.setattr(Proof, "finish", finish)
    with capture_logs() as logs, contextlib.suppress(DigestMismatch):
        await fetch(always(fetchers), origin.remote)

    assert any("arrived damaged: behind its tar" in str(line["problem"]) for line in logs)


async def test_what_arrived_before_is_not_fetched_again(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    document = await origin.build(ID, BASE)
    (layer,) = document.images[0].layers
    answered: list[int] = []

    def go_away(_name: object, offset: int) -> StoreUnreachable | None:
        answered.append(offset)
        return StoreUnreachable("away") if offset >= BLOCK else None

    origin.remote.on_piece = go_away
    with pytest.raises(StoreUnreachable):
        await fetch(always(fetchers), origin.remote)
    answered.clear()
    origin.remote.on_piece = lambda _name, offset: answered.append(offset)

    await arrives(origin, node, always(fetchers))

    assert min(answered) >= BLOCK
    assert layer.size > 2 * BLOCK


WAYS = {"proven as it arrives": [BASE], "proven when it is whole": [tar_of({"etc": None}), ABOVE]}
LIES: dict[str, Callable[[bytes], bytes]] = {
    "noise": lambda packed: bytes(len(packed)),
    "cut": lambda packed: packed[: len(packed) // 2],
    "one more frame": lambda packed: packed + frames.pack(memoryview(b"x")),
    "another block": lambda _: frames.pack(memoryview(bytes(BLOCK))),
    "a bomb": lambda _: zstandard.ZstdCompressor().compress(bytes(1 << 30)),
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("tars", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_blocks_that_are_wrong_are_asked_for_once_more_as_they_are(
    origin: Origin, node: Store, fetchers: Fetchers, lie: Callable[[bytes], bytes], tars: list[bytes]
) -> None:
    document = await origin.build(ID, *tars)
    layer = document.images[0].layers[-1]
    origin.remote.spoil = lie

    await arrives(origin, node, always(fetchers))

    assert origin.remote.fetched[layer.name] >= layer.size


async def test_a_fetch_that_is_cancelled_ends_at_once(origin: Origin, node: Store, fetchers: Fetchers) -> None:
    await origin.build(ID, BASE)
    fetcher = always(fetchers)
    asked = asyncio.Event()

    def seen(_name: object, offset: int) -> None:
        if offset >= BLOCK:
            asked.set()

    origin.remote.on_piece = seen
    running = asyncio.create_task(fetch(fetcher, origin.remote))
    await asked.wait()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert node.bundles.ids() == []
    await arrives(origin, node, fetcher)
