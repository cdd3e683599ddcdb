"""What a request is answered when something in the server itself goes wrong."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from imagecache.digest import Digest
from imagecache.errors import StoreBusy
from imagecache.layer import frames
from imagecache.limits import GIB
from imagecache.served.authenticator import Authenticator, AuthenticatorSettings, Caller, ThreadedAuthenticator
from imagecache.served.block_packer import BlockPacker
from imagecache.served.bounded_queue import BoundedQueue
from imagecache.served.http_messages import Request, Response
from imagecache.served.partial_layers import PartialLayerSettings
from imagecache.served.protocol import BLOCK
from imagecache.served.request_handler import RequestHandler
from imagecache.served.store_reader import StoreReader
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.packed_blocks import PackedBlocks
from imagecache.store.store import Store
from testkit.clock import FakeClock
from testkit.partial_layer import NO_HEAD, PartialLayerWriter
from testkit.served import AGENT, TableReviewer
from testkit.store import put_layer

WORDS = "agent-token"
CONTENT = bytes(range(250)) * 10
NAME = LayerName(space=Space.LAYERS, digest=Digest.sha256(CONTENT))


class Broken(StoreReader):
    """Has a bug."""

    def ready(self) -> None:
        raise ValueError(WORDS)


def authenticator() -> ThreadedAuthenticator:
    authenticator = Authenticator(
        TableReviewer({WORDS: Caller(AGENT)}), FakeClock(), AuthenticatorSettings(frozenset({AGENT}))
    )
    return ThreadedAuthenticator(authenticator, asyncio.get_running_loop(), 60)


def one_slot() -> BoundedQueue:
    return BoundedQueue(1, capacity=0, timeout=1, buffer_size=1000)


def body_of(response: Response) -> dict[str, str]:
    return dict(json.loads(b"".join(response.body)))


async def test_a_bug_is_told_without_what_the_reader_sent(tmp_path: Path) -> None:
    handler = RequestHandler(Broken(tmp_path), authenticator(), one_slot(), one_slot(), lambda _count: None)
    request = Request("GET", "/readyz", {"authorization": f"Bearer {WORDS}"})

    with capture_logs() as logs, ExitStack() as held:
        response = handler.respond(request, held)
        body = body_of(response)

    assert (response.status, body["reason"]) == (500, "InternalError")
    (line,) = logs
    assert (line["path"], line["kind"]) == ("/readyz", "ValueError")
    assert "test_request_handler.py:" in line["at"]
    assert WORDS not in repr(logs) + repr(body)


async def test_what_went_out_is_told(store: Store) -> None:
    put_layer(store, NAME, CONTENT)
    sent: list[int] = []
    handler = RequestHandler(StoreReader(store.root), authenticator(), one_slot(), one_slot(), sent.append)
    request = Request("GET", f"/v1/layers/{NAME}", {"authorization": f"Bearer {WORDS}", "range": "bytes=100-"})

    def read() -> bytes:
        with ExitStack() as held:
            return b"".join(bytes(piece) for piece in handler.respond(request, held).body)

    assert await asyncio.to_thread(read) == CONTENT[100:]
    assert sent == [1000, 1000, 400]


async def test_nobody_is_let_in_any_more() -> None:
    door = authenticator()
    await asyncio.to_thread(door.authenticate, f"Bearer {WORDS}")

    door.close()

    with pytest.raises(StoreBusy, match="stopping"):
        await asyncio.to_thread(door.authenticate, f"Bearer {WORDS}")


async def ask(handler: RequestHandler, path: str, wanted: str) -> tuple[Response, bytes]:
    def read() -> tuple[Response, bytes]:
        with ExitStack() as held:
            response = handler.respond(
                Request("GET", path, {"authorization": f"Bearer {WORDS}", "range": f"bytes={wanted}"}), held
            )
            return response, b"".join(bytes(piece) for piece in response.body)

    return await asyncio.to_thread(read)


def without_waiting(store: Store, partial: BoundedQueue) -> RequestHandler:
    """Waits for no layer image in the making."""
    settings = PartialLayerSettings(timeout=0)
    return RequestHandler(
        StoreReader(store.root), authenticator(), one_slot(), partial, lambda _count: None, waits=settings
    )


def staged_files_open() -> int:
    return sum(path.resolve().suffix == ".tmp" for path in Path("/proc/self/fd").iterdir())


def reason(body: bytes) -> str:
    return str(json.loads(body)["reason"])


async def test_what_went_out_of_a_layer_in_the_making_is_told(store: Store) -> None:
    sent: list[int] = []
    handler = RequestHandler(StoreReader(store.root), authenticator(), one_slot(), one_slot(), sent.append)

    with PartialLayerWriter(store, NAME) as making:
        making.write(NO_HEAD + CONTENT)
        response, body = await ask(handler, f"/v1/partial/{NAME}", "4096-6595")

    assert (response.status, body) == (206, CONTENT)
    assert sent == [1000, 1000, 500]


async def test_partial_layers_have_slots_of_their_own(store: Store) -> None:
    streams, partial, other = one_slot(), one_slot(), LayerName(space=Space.LAYERS, digest=Digest.sha256(b"other"))
    handler = RequestHandler(StoreReader(store.root), authenticator(), streams, partial, lambda _count: None)
    put_layer(store, other, CONTENT)

    with PartialLayerWriter(store, NAME) as making:
        making.write(NO_HEAD + CONTENT)
        with partial.slot():
            refused, problem = await ask(handler, f"/v1/partial/{NAME}", "4096-4195")
            finished, _ = await ask(handler, f"/v1/partial/{other}", "0-99")
            layer, _ = await ask(handler, f"/v1/layers/{other}", "0-99")
        with streams.slot():
            growing, body = await ask(handler, f"/v1/partial/{NAME}", "4096-4195")
            late, _ = await ask(handler, f"/v1/partial/{other}", "0-99")

    assert (refused.status, reason(problem), refused.headers["Retry-After"]) == (503, "StoreBusy", "1")
    assert (finished.status, layer.status) == (206, 206)
    assert (growing.status, body) == (206, CONTENT[:100])
    assert late.status == 503


async def test_nothing_of_the_range_is_made_yet(store: Store) -> None:
    partial = one_slot()
    handler = without_waiting(store, partial)

    with PartialLayerWriter(store, NAME) as making, partial.slot():  # a request without new bytes needs no slot
        making.write(NO_HEAD)
        response, body = await ask(handler, f"/v1/partial/{NAME}", "4096-4195")

    assert (response.status, reason(body)) == (416, "InvalidInput")
    assert "Content-Range" not in response.headers


async def test_as_much_of_the_range_as_is_written_at_the_timeout(store: Store) -> None:
    handler = without_waiting(store, one_slot())

    with PartialLayerWriter(store, NAME) as making:
        making.write(NO_HEAD + CONTENT[:10])
        response, body = await ask(handler, f"/v1/partial/{NAME}", "4096-4195")

    assert (response.status, body) == (206, CONTENT[:10])
    assert response.headers["Content-Range"] == "bytes 4096-4105/*"


async def test_who_would_wait_is_told_that_the_server_stops(store: Store) -> None:
    handler = RequestHandler(StoreReader(store.root), authenticator(), one_slot(), one_slot(), lambda _count: None)
    handler.close()

    with PartialLayerWriter(store, NAME) as making, capture_logs() as logs:
        making.write(NO_HEAD)
        response, body = await ask(handler, f"/v1/partial/{NAME}", "4096-4195")

    assert (response.status, reason(body), response.headers["Retry-After"]) == (503, "StoreBusy", "1")
    assert logs == []


async def test_no_file_stays_open_whatever_is_answered(store: Store) -> None:
    partial = one_slot()
    handler = without_waiting(store, partial)

    with PartialLayerWriter(store, NAME) as making:
        making.write(NO_HEAD + CONTENT)
        with partial.slot():
            busy, _ = await ask(handler, f"/v1/partial/{NAME}", "0-9")
        others = [await ask(handler, f"/v1/partial/{NAME}", wanted) for wanted in ("0-9", "9000-9001", "5-")]
        opened = await asyncio.to_thread(staged_files_open)

    assert [busy.status, *(response.status for response, _ in others)] == [503, 206, 416, 400]
    assert opened == 1  # its maker's


BLOCKS = bytes(range(250)) * 40_000
"""Two blocks, the second one shorter."""


def packing(store: Store) -> RequestHandler:
    packer = BlockPacker(PackedBlocks(store.paths, GIB), 1)
    return RequestHandler(
        StoreReader(store.root), authenticator(), one_slot(), one_slot(), lambda _count: None, packer=packer
    )


async def block(handler: RequestHandler, number: object, coding: str | None) -> tuple[Response, bytes]:
    def read() -> tuple[Response, bytes]:
        fields = {"authorization": f"Bearer {WORDS}"} | ({"accept-encoding": coding} if coding is not None else {})
        with ExitStack() as held:
            response = handler.respond(Request("GET", f"/v1/blocks/{NAME}/{number}", fields), held)
            return response, b"".join(bytes(piece) for piece in response.body)

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("coding", ["zstd", "identity, ZSTD;q=0.5", "gzip;q=0,zstd"])
async def test_a_block_for_who_takes_it_compressed(store: Store, number: int, coding: str) -> None:
    put_layer(store, NAME, BLOCKS)
    wanted = BLOCKS[number * BLOCK : (number + 1) * BLOCK]

    response, body = await block(packing(store), number, coding)

    unpacked = bytearray(len(wanted))
    frames.unpack(memoryview(body), memoryview(unpacked))
    assert bytes(unpacked) == wanted
    assert (response.status, response.headers["Content-Encoding"], response.length) == (200, "zstd", len(body))
    assert len(body) < len(wanted) // 10


@pytest.mark.parametrize("coding", [None, "", "identity", "gzip, br", "zstd;q=0", "zstd; q=0.000"])
async def test_a_block_for_who_does_not(store: Store, coding: str | None) -> None:
    put_layer(store, NAME, BLOCKS)

    response, body = await block(packing(store), 1, coding)

    assert body == BLOCKS[BLOCK:]
    assert (response.status, response.length) == (200, len(body))
    assert "Content-Encoding" not in response.headers
    assert response.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("number", ["2", "999999999"])
async def test_a_block_behind_the_end(store: Store, number: str) -> None:
    put_layer(store, NAME, BLOCKS)

    response, _ = await block(packing(store), number, "zstd")

    assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{len(BLOCKS)}")


@pytest.mark.parametrize("number", ["-1", "", "x", "1" * 10, "1.0"])
async def test_what_is_no_number_of_a_block(store: Store, number: str) -> None:
    put_layer(store, NAME, BLOCKS)

    response, body = await block(packing(store), number, "zstd")

    assert (response.status, reason(body)) == (400, "InvalidInput")
