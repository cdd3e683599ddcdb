"""What every ``RemoteStore`` must do: the client in front of a server, a directory, and the fake.

Subclass ``RemoteStoreSuite`` and give it an ``origin`` fixture: a remote store with the means to put snapshots there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Protocol

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.errors import BlobNotFound, NotFound, StoreCorrupt
from imagecache.served.ports import RemoteStore
from imagecache.store.model import LayerName, SnapshotDocument, Space

SNAPSHOT = "imc-" + "0" * 20
OTHER = "imc-" + "1" * 20
CONTENT = random.Random(17).randbytes(3_000_001)
"""A layer image of several network buffers; remote stores do not look into layers."""


class Origin(Protocol):
    @property
    def remote(self) -> RemoteStore:
        """The thing under test; the same object each time."""

    def publish(self, snapshot_id: str, contents: Sequence[bytes]) -> SnapshotDocument:
        """Put a snapshot of one image with these layer images there, keyed by the SHA-256 of each content."""


async def read(remote: RemoteStore, name: LayerName, offset: int, length: int) -> bytes:
    found = bytearray(length)
    await remote.layer(name, offset, memoryview(found))
    return bytes(found)


def named(content: bytes) -> LayerName:
    return LayerName(space=Space.LAYERS, digest=DiffID(Digest.sha256(content)))


class RemoteStoreSuite:
    @pytest.fixture
    def origin(self) -> Origin:
        raise NotImplementedError

    async def test_a_snapshot(self, origin: Origin) -> None:
        document = origin.publish(SNAPSHOT, [CONTENT])

        assert await origin.remote.snapshot(SNAPSHOT) == document

    async def test_each_snapshot_by_its_id(self, origin: Origin) -> None:
        documents = [origin.publish(SNAPSHOT, [b"one"]), origin.publish(OTHER, [b"other"])]

        assert [await origin.remote.snapshot(document.id) for document in documents] == documents

    async def test_an_unknown_snapshot(self, origin: Origin) -> None:
        origin.publish(SNAPSHOT, [b"one"])

        with pytest.raises(NotFound):
            await origin.remote.snapshot(OTHER)

    async def test_every_document_of_a_snapshot(self, origin: Origin) -> None:
        document = origin.publish(SNAPSHOT, [b"one"])

        for digest in document.document_digests():
            assert digest.matches(await origin.remote.document(digest))

    async def test_an_unknown_document(self, origin: Origin) -> None:
        origin.publish(SNAPSHOT, [b"one"])

        with pytest.raises(BlobNotFound):
            await origin.remote.document(Digest.sha256(b"nowhere"))

    async def test_a_whole_layer(self, origin: Origin) -> None:
        origin.publish(SNAPSHOT, [CONTENT])

        assert await read(origin.remote, named(CONTENT), 0, len(CONTENT)) == CONTENT

    @pytest.mark.parametrize(
        ("offset", "length"), [(0, 1), (1, 1), (4096, 1_500_000), (len(CONTENT) - 1, 1), (1, len(CONTENT) - 1), (7, 0)]
    )
    async def test_a_range(self, origin: Origin, offset: int, length: int) -> None:
        origin.publish(SNAPSHOT, [CONTENT])

        found = await read(origin.remote, named(CONTENT), offset, length)

        assert found == CONTENT[offset : offset + length]

    async def test_ranges_in_parallel(self, origin: Origin) -> None:
        origin.publish(SNAPSHOT, [CONTENT])
        starts = range(0, len(CONTENT), 500_000)

        parts = [read(origin.remote, named(CONTENT), at, min(500_000, len(CONTENT) - at)) for at in starts]

        assert b"".join(await asyncio.gather(*parts)) == CONTENT

    async def test_an_unknown_layer(self, origin: Origin) -> None:
        origin.publish(SNAPSHOT, [b"one"])

        with pytest.raises(BlobNotFound):
            await read(origin.remote, named(b"nowhere"), 0, 1)

    async def test_a_layer_image_that_is_shorter_than_was_thought(self, origin: Origin) -> None:
        origin.publish(SNAPSHOT, [CONTENT])

        with pytest.raises(StoreCorrupt):
            await read(origin.remote, named(CONTENT), 0, len(CONTENT) + 1)

    async def test_a_reader_may_stop_in_the_middle(self, origin: Origin) -> None:
        origin.publish(SNAPSHOT, [CONTENT])
        reading = asyncio.create_task(read(origin.remote, named(CONTENT), 0, len(CONTENT)))
        await asyncio.sleep(0)

        reading.cancel()

        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await read(origin.remote, named(CONTENT), 5, 10) == CONTENT[5:15]
