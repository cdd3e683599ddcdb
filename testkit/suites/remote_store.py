"""What every ``RemoteStore`` must do: the client in front of a server, and the fake.

Subclass ``RemoteStoreSuite`` and give it an ``origin`` fixture: a remote store with the means to put bundles there. Who
only reads bundles (a node in prepull mode, also from a shared directory) passes ``BundleSuite``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import BlobNotFound, NotFound, StoreCorrupt
from imagecache.fetch.remote_store import RemoteStore
from imagecache.layer import frames
from imagecache.served.protocol import BLOCK
from imagecache.served.store_client import PartialRead
from imagecache.store.bundle_document import Bundle, decode
from imagecache.store.layer_name import LayerName, Space

BUNDLE = "imc-" + "0" * 20
OTHER = "imc-" + "1" * 20
CONTENT = random.Random(17).randbytes(3_000_001)
"""A layer image of several network buffers; remote stores do not look into layers."""
LONG = CONTENT + bytes(2 * BLOCK)
"""Of three blocks, some of it such that compressing helps."""
PARTIAL = bytes(DATA_START) + CONTENT
"""Of a partial one they look at the head: it does not say yet where the tar ends."""


class PartialLayer(Protocol):
    """A layer image that a build is writing; begins empty."""

    def write(self, content: bytes) -> None:
        """Append to it."""

    def finish(self) -> None:
        """What was written becomes the layer image."""

    def abandon(self) -> None:
        """The build stops writing it."""


Read = Callable[[str], Awaitable[Bundle]]
"""A bundle by its id, decoded."""


class BundleOrigin(Protocol):
    def publish(self, bundle_id: str, contents: Sequence[bytes]) -> Bundle:
        """Put a bundle of one image with these layer images there, keyed by the SHA-256 of each content."""


class Origin(BundleOrigin, Protocol):
    @property
    def remote(self) -> RemoteStore:
        """The thing under test; the same object each time."""

    def begin(self, name: LayerName) -> PartialLayer:
        """Begin a layer image there, after those that were begun before, by a running build of ``BUNDLE``."""


async def read_block(remote: RemoteStore, content: bytes, number: int) -> bytes:
    """Of the layer image with this content, unpacked."""
    target = bytearray(len(content[number * BLOCK : (number + 1) * BLOCK]))
    found = await remote.block(named(content), number, memoryview(target))
    if not found.packed:
        assert found.count == len(target)
        return bytes(target)
    block = bytearray(len(target))
    frames.unpack(memoryview(target)[: found.count], memoryview(block))
    return bytes(block)


async def read(remote: RemoteStore, name: LayerName, offset: int, length: int) -> bytes:
    found = bytearray(length)
    await remote.layer(name, offset, memoryview(found))
    return bytes(found)


async def read_partial(remote: RemoteStore, name: LayerName, offset: int, length: int) -> tuple[bytes, int | None]:
    """What exists of a layer image, and its size once it is finished."""
    found = bytearray(length)
    part = await remote.partial(name, offset, memoryview(found))
    return bytes(found[: part.count]), part.size


def named(content: bytes) -> LayerName:
    return LayerName(space=Space.LAYERS, digest=DiffID(Digest.sha256(content)))


class BundleSuite:
    @pytest.fixture
    def origin(self) -> BundleOrigin:
        raise NotImplementedError

    @pytest.fixture
    def read(self) -> Read:
        """The thing under test: a bundle of ``origin`` by its id."""
        raise NotImplementedError

    async def test_a_bundle(self, origin: BundleOrigin, read: Read) -> None:
        document = origin.publish(BUNDLE, [CONTENT])

        assert await read(BUNDLE) == document

    async def test_each_bundle_by_its_id(self, origin: BundleOrigin, read: Read) -> None:
        documents = [origin.publish(BUNDLE, [b"one"]), origin.publish(OTHER, [b"other"])]

        assert [await read(document.id) for document in documents] == documents

    async def test_an_unknown_bundle(self, origin: BundleOrigin, read: Read) -> None:
        origin.publish(BUNDLE, [b"one"])

        with pytest.raises(NotFound):
            await read(OTHER)


class RemoteStoreSuite(BundleSuite):
    @pytest.fixture
    def origin(self) -> Origin:
        raise NotImplementedError

    @pytest.fixture
    def read(self, origin: Origin) -> Read:
        async def decoded(bundle_id: str) -> Bundle:
            return decode(await origin.remote.bundle(bundle_id))

        return decoded

    async def test_every_document_of_a_bundle(self, origin: Origin) -> None:
        document = origin.publish(BUNDLE, [b"one"])

        for digest in document.document_digests():
            assert digest.matches(await origin.remote.document(digest))

    async def test_an_unknown_document(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [b"one"])

        with pytest.raises(BlobNotFound):
            await origin.remote.document(Digest.sha256(b"nowhere"))

    async def test_a_whole_layer(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [CONTENT])

        assert await read(origin.remote, named(CONTENT), 0, len(CONTENT)) == CONTENT

    @pytest.mark.parametrize(
        ("offset", "length"), [(0, 1), (1, 1), (4096, 1_500_000), (len(CONTENT) - 1, 1), (1, len(CONTENT) - 1), (7, 0)]
    )
    async def test_a_range(self, origin: Origin, offset: int, length: int) -> None:
        origin.publish(BUNDLE, [CONTENT])

        found = await read(origin.remote, named(CONTENT), offset, length)

        assert found == CONTENT[offset : offset + length]

    async def test_ranges_in_parallel(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [CONTENT])
        starts = range(0, len(CONTENT), 500_000)

        parts = [read(origin.remote, named(CONTENT), at, min(500_000, len(CONTENT) - at)) for at in starts]

        assert b"".join(await asyncio.gather(*parts)) == CONTENT

    async def test_a_layer_in_blocks(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [LONG])

        found = [await read_block(origin.remote, LONG, number) for number in range(3)]

        assert b"".join(found) == LONG

    async def test_blocks_in_parallel(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [LONG])

        found = await asyncio.gather(*(read_block(origin.remote, LONG, number % 3) for number in range(6)))

        assert b"".join(found) == 2 * LONG

    async def test_a_block_of_an_unknown_layer(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [b"one"])

        with pytest.raises(BlobNotFound):
            await read_block(origin.remote, LONG, 0)

    async def test_an_unknown_layer(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [b"one"])

        with pytest.raises(BlobNotFound):
            await read(origin.remote, named(b"nowhere"), 0, 1)

    async def test_a_layer_image_that_is_shorter_than_asked_for(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [CONTENT])

        with pytest.raises(StoreCorrupt):
            await read(origin.remote, named(CONTENT), 0, len(CONTENT) + 1)

    async def test_a_reader_may_stop_in_the_middle(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [CONTENT])
        reading = asyncio.create_task(read(origin.remote, named(CONTENT), 0, len(CONTENT)))
        await asyncio.sleep(0)

        reading.cancel()

        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await read(origin.remote, named(CONTENT), 5, 10) == CONTENT[5:15]

    async def test_a_build_that_does_not_run(self, origin: Origin) -> None:
        origin.publish(OTHER, [b"one"])
        origin.begin(named(b"one more"))

        assert await origin.remote.building(OTHER, "amd64") == ()

    async def test_the_layers_of_a_running_build_in_its_order(self, origin: Origin) -> None:
        names = [named(bytes([number])) for number in range(5)]
        for name in names:
            origin.begin(name)

        assert await origin.remote.building(BUNDLE, "amd64") == tuple(names)

    async def test_a_running_build_names_no_layer_that_is_right_at_one_position_only(self, origin: Origin) -> None:
        first, last = named(b"first"), named(b"last")
        for name in (first, LayerName(space=Space.CHAINS, digest=named(b"chain").digest), last):
            origin.begin(name)

        assert await origin.remote.building(BUNDLE, "amd64") == (first, last)

    async def test_a_layer_that_no_build_writes(self, origin: Origin) -> None:
        origin.begin(named(b"another"))

        with pytest.raises(BlobNotFound):
            await read_partial(origin.remote, named(CONTENT), DATA_START, 1)

    async def test_a_layer_as_far_as_it_is_written(self, origin: Origin) -> None:
        layer = origin.begin(named(CONTENT))
        layer.write(PARTIAL[:2_000_000])

        assert await read_partial(origin.remote, named(CONTENT), 0, 2_000_000) == (PARTIAL[:2_000_000], None)
        assert await read_partial(origin.remote, named(CONTENT), 1_999_999, 1) == (PARTIAL[1_999_999:2_000_000], None)
        with pytest.raises(BlobNotFound):
            await read(origin.remote, named(CONTENT), 0, 1)

    async def test_a_layer_that_has_grown_since(self, origin: Origin) -> None:
        layer = origin.begin(named(CONTENT))
        layer.write(PARTIAL[:5000])
        assert await read_partial(origin.remote, named(CONTENT), DATA_START, 904) == (PARTIAL[DATA_START:5000], None)

        layer.write(PARTIAL[5000:1_000_000])

        assert await read_partial(origin.remote, named(CONTENT), 5000, 995_000) == (PARTIAL[5000:1_000_000], None)

    async def test_a_layer_that_is_finished_has_a_size(self, origin: Origin) -> None:
        layer = origin.begin(named(CONTENT))
        layer.write(PARTIAL)
        layer.finish()

        assert await read_partial(origin.remote, named(CONTENT), 0, 10) == (PARTIAL[:10], len(PARTIAL))
        assert await read_partial(origin.remote, named(CONTENT), 10, len(PARTIAL) - 10) == (PARTIAL[10:], len(PARTIAL))
        assert await read(origin.remote, named(CONTENT), 0, len(PARTIAL)) == PARTIAL

    @pytest.mark.parametrize("more", [7, 0, -7])
    async def test_of_a_finished_layer_nothing_is_read_behind_its_end(self, origin: Origin, more: int) -> None:
        origin.publish(OTHER, [CONTENT])
        offset = len(CONTENT) - more

        assert await read_partial(origin.remote, named(CONTENT), offset, 100) == (CONTENT[offset:], len(CONTENT))

    async def test_a_layer_that_was_abandoned(self, origin: Origin) -> None:
        layer = origin.begin(named(CONTENT))
        layer.write(PARTIAL[:5000])
        layer.abandon()

        with pytest.raises(BlobNotFound):
            await read_partial(origin.remote, named(CONTENT), DATA_START, 1)

    async def test_a_layer_that_is_begun_again(self, origin: Origin) -> None:
        first = origin.begin(named(CONTENT))
        first.write(bytes(9000))
        first.abandon()

        origin.begin(named(CONTENT)).write(PARTIAL[:5000])

        assert await read_partial(origin.remote, named(CONTENT), DATA_START, 904) == (PARTIAL[DATA_START:5000], None)

    async def test_a_reader_that_keeps_up_has_all_of_it_in_the_end(self, origin: Origin) -> None:
        layer = origin.begin(named(CONTENT))

        async def read_to_the_end() -> bytes:
            found = bytearray(len(PARTIAL) + 1)  # one byte more: it asks until it knows the size
            part, offset = PartialRead(0, None), 0
            while part.size is None or offset < part.size:
                part = await origin.remote.partial(named(CONTENT), offset, memoryview(found)[offset:][:1_000_000])
                offset += part.count
            return bytes(found[:offset])

        reading = asyncio.create_task(read_to_the_end())
        for start in range(0, len(PARTIAL), 400_000):
            layer.write(PARTIAL[start : start + 400_000])
            await read_partial(origin.remote, named(CONTENT), start, 1)
        layer.finish()

        assert await reading == PARTIAL
