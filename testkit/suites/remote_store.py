"""What every ``RemoteStore`` must do: the client in front of a server, a directory, and the fake.

Subclass ``RemoteStoreSuite`` and give it an ``origin`` fixture: a remote store with the means to put bundles there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Protocol

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import BlobNotFound, NotFound, StoreCorrupt
from imagecache.served.remote_store import Part, RemoteStore
from imagecache.store.model import Bundle, LayerName, Space

BUNDLE = "imc-" + "0" * 20
OTHER = "imc-" + "1" * 20
CONTENT = random.Random(17).randbytes(3_000_001)
"""A layer image of several network buffers; remote stores do not look into layers."""
GROWING = bytes(DATA_START) + CONTENT
"""Of one in the making they look at the head: nobody knows yet where its tar ends."""


class Making(Protocol):
    """A layer image in the making; begins empty."""

    def write(self, content: bytes) -> None:
        """Append to it."""

    def finish(self) -> None:
        """What was written is the layer image from now on."""

    def give_up(self) -> None:
        """Nobody makes it any more."""


class Origin(Protocol):
    @property
    def remote(self) -> RemoteStore:
        """The thing under test; the same object each time."""

    def publish(self, bundle_id: str, contents: Sequence[bytes]) -> Bundle:
        """Put a bundle of one image with these layer images there, keyed by the SHA-256 of each content."""

    def begin(self, name: LayerName) -> Making:
        """Make a layer image there, after those that were begun before, by a running build of ``BUNDLE``."""


async def read(remote: RemoteStore, name: LayerName, offset: int, length: int) -> bytes:
    found = bytearray(length)
    await remote.layer(name, offset, memoryview(found))
    return bytes(found)


async def grown(remote: RemoteStore, name: LayerName, offset: int, length: int) -> tuple[bytes, int | None]:
    """What there is of a layer image, and its size once it is finished."""
    found = bytearray(length)
    part = await remote.partial(name, offset, memoryview(found))
    return bytes(found[: part.count]), part.size


def named(content: bytes) -> LayerName:
    return LayerName(space=Space.LAYERS, digest=DiffID(Digest.sha256(content)))


class RemoteStoreSuite:
    @pytest.fixture
    def origin(self) -> Origin:
        raise NotImplementedError

    async def test_a_bundle(self, origin: Origin) -> None:
        document = origin.publish(BUNDLE, [CONTENT])

        assert await origin.remote.bundle(BUNDLE) == document

    async def test_each_bundle_by_its_id(self, origin: Origin) -> None:
        documents = [origin.publish(BUNDLE, [b"one"]), origin.publish(OTHER, [b"other"])]

        assert [await origin.remote.bundle(document.id) for document in documents] == documents

    async def test_an_unknown_bundle(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [b"one"])

        with pytest.raises(NotFound):
            await origin.remote.bundle(OTHER)

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

    async def test_an_unknown_layer(self, origin: Origin) -> None:
        origin.publish(BUNDLE, [b"one"])

        with pytest.raises(BlobNotFound):
            await read(origin.remote, named(b"nowhere"), 0, 1)

    async def test_a_layer_image_that_is_shorter_than_was_thought(self, origin: Origin) -> None:
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

    async def test_a_build_that_nobody_runs(self, origin: Origin) -> None:
        origin.publish(OTHER, [b"one"])
        origin.begin(named(b"one more"))

        assert await origin.remote.building(OTHER) == ()

    async def test_what_a_running_build_makes_in_its_order(self, origin: Origin) -> None:
        names = [named(bytes([number])) for number in range(5)]
        for name in names:
            origin.begin(name)

        assert await origin.remote.building(BUNDLE) == tuple(names)

    async def test_a_running_build_keeps_to_itself_what_serves_one_place_only(self, origin: Origin) -> None:
        first, last = named(b"first"), named(b"last")
        for name in (first, LayerName(space=Space.CHAINS, digest=named(b"chain").digest), last):
            origin.begin(name)

        assert await origin.remote.building(BUNDLE) == (first, last)

    async def test_a_layer_that_nobody_makes(self, origin: Origin) -> None:
        origin.begin(named(b"another"))

        with pytest.raises(BlobNotFound):
            await grown(origin.remote, named(CONTENT), DATA_START, 1)

    async def test_a_layer_as_far_as_it_is_made(self, origin: Origin) -> None:
        making = origin.begin(named(CONTENT))
        making.write(GROWING[:2_000_000])

        assert await grown(origin.remote, named(CONTENT), 0, 2_000_000) == (GROWING[:2_000_000], None)
        assert await grown(origin.remote, named(CONTENT), 1_999_999, 1) == (GROWING[1_999_999:2_000_000], None)
        with pytest.raises(BlobNotFound):
            await read(origin.remote, named(CONTENT), 0, 1)

    async def test_a_layer_that_has_grown_since(self, origin: Origin) -> None:
        making = origin.begin(named(CONTENT))
        making.write(GROWING[:5000])
        assert await grown(origin.remote, named(CONTENT), DATA_START, 904) == (GROWING[DATA_START:5000], None)

        making.write(GROWING[5000:1_000_000])

        assert await grown(origin.remote, named(CONTENT), 5000, 995_000) == (GROWING[5000:1_000_000], None)

    async def test_a_layer_that_is_finished_has_a_size(self, origin: Origin) -> None:
        making = origin.begin(named(CONTENT))
        making.write(GROWING)
        making.finish()

        assert await grown(origin.remote, named(CONTENT), 0, 10) == (GROWING[:10], len(GROWING))
        assert await grown(origin.remote, named(CONTENT), 10, len(GROWING) - 10) == (GROWING[10:], len(GROWING))
        assert await read(origin.remote, named(CONTENT), 0, len(GROWING)) == GROWING

    @pytest.mark.parametrize("more", [7, 0, -7])
    async def test_of_a_finished_layer_there_is_only_what_is_in_the_file(self, origin: Origin, more: int) -> None:
        origin.publish(OTHER, [CONTENT])
        offset = len(CONTENT) - more

        assert await grown(origin.remote, named(CONTENT), offset, 100) == (CONTENT[offset:], len(CONTENT))

    async def test_a_layer_that_was_given_up(self, origin: Origin) -> None:
        making = origin.begin(named(CONTENT))
        making.write(GROWING[:5000])
        making.give_up()

        with pytest.raises(BlobNotFound):
            await grown(origin.remote, named(CONTENT), DATA_START, 1)

    async def test_a_layer_that_is_begun_again(self, origin: Origin) -> None:
        first = origin.begin(named(CONTENT))
        first.write(bytes(9000))
        first.give_up()

        origin.begin(named(CONTENT)).write(GROWING[:5000])

        assert await grown(origin.remote, named(CONTENT), DATA_START, 904) == (GROWING[DATA_START:5000], None)

    async def test_a_reader_that_keeps_up_has_all_of_it_in_the_end(self, origin: Origin) -> None:
        making = origin.begin(named(CONTENT))

        async def follow() -> bytes:
            found, part = bytearray(len(GROWING) + 1), Part(0, None)  # it asks for more until it is told the size
            offset = 0
            while part.size is None or offset < part.size:
                part = await origin.remote.partial(named(CONTENT), offset, memoryview(found)[offset:][:1_000_000])
                offset += part.count
            return bytes(found[:offset])

        following = asyncio.create_task(follow())
        for start in range(0, len(GROWING), 400_000):
            making.write(GROWING[start : start + 400_000])
            await grown(origin.remote, named(CONTENT), start, 1)
        making.finish()

        assert await following == GROWING
