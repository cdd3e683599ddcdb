"""The client against the real server, and against one that misbehaves."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from imagecache.backoff import Backoff
from imagecache.digest import DiffID, Digest
from imagecache.errors import (
    BlobNotFound,
    DigestMismatch,
    ImageCacheError,
    InvalidInput,
    InvalidSetting,
    LimitExceeded,
    MalformedDocument,
    NotFound,
    StoreCorrupt,
    StoreError,
    StoreRefused,
    StoreUnreachable,
)
from imagecache.served import protocol
from imagecache.served.store_client import ClientSettings, PartialRead, StoreClient
from imagecache.store.bundle_document import encode
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.registry import FakeTime
from testkit.served import Served, make_certificate
from testkit.store import put_bundle

BUNDLE = "imc-" + "0" * 20
CONTENT = random.Random(3).randbytes(5_000_000)
NAME = LayerName(space=Space.LAYERS, digest=Digest.sha256(CONTENT))


async def read(client: StoreClient, offset: int = 0, length: int = len(CONTENT)) -> bytes:
    found = bytearray(length)
    await client.layer(NAME, offset, memoryview(found))
    return bytes(found)


class Liar:
    """A server that answers layers as a test says, the first time or always."""

    def __init__(self, workspace: Path) -> None:
        self.certificate, self._key = make_certificate(workspace)
        self.token_file = workspace / "token"
        self.token_file.write_text("agent-token")
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.honest
        self.requests: list[web.Request] = []
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.answer(request)

    async def honest(self, request: web.Request) -> web.StreamResponse:
        start, end, _ = request.http_range.indices(len(CONTENT))
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(CONTENT)}"}
        return web.Response(status=206, body=CONTENT[start:end], headers=headers)

    async def cut(self, request: web.Request, after: int) -> web.StreamResponse:
        """Send some bytes of what was asked for, then drop the connection."""
        start, end, _ = request.http_range.indices(len(CONTENT))
        response = web.StreamResponse(status=206, headers={"Content-Range": f"bytes {start}-{end - 1}/{len(CONTENT)}"})
        response.content_length = end - start
        await response.prepare(request)
        await response.write(CONTENT[start : start + after])
        assert request.transport is not None
        request.transport.close()
        return response


@pytest.fixture
async def liar(tmp_path: Path) -> AsyncIterator[Liar]:
    liar = Liar(tmp_path / "liar")
    app = web.Application()
    app.router.add_get("/{path:.*}", liar.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(liar.certificate, liar._key)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    liar.port = runner.addresses[0][1]
    yield liar
    await runner.cleanup()


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def to_liar(liar: Liar, time: FakeTime) -> AsyncIterator[StoreClient]:
    url = f"https://127.0.0.1:{liar.port}"
    backoff = Backoff(0.25, 10.0, jitter=0.5, chance=lambda: 0.5)
    settings = ClientSettings(url, liar.certificate, liar.token_file, sleep=time.sleep, backoff=backoff)
    async with StoreClient(settings) as client:
        yield client


async def test_a_cut_connection_is_resumed_where_it_stopped(liar: Liar, to_liar: StoreClient, time: FakeTime) -> None:
    cuts = iter([1_500_000, 0, 2_000_000])

    async def sometimes(request: web.Request) -> web.StreamResponse:
        after = next(cuts, None)
        return await (liar.honest(request) if after is None else liar.cut(request, after))

    liar.answer = sometimes

    assert await read(to_liar) == CONTENT
    assert len(liar.requests) == 4
    assert len(time.slept) == 3


async def test_no_progress_ends_after_some_tries(liar: Liar, to_liar: StoreClient, time: FakeTime) -> None:
    liar.answer = lambda request: liar.cut(request, 1000)

    with pytest.raises(StoreUnreachable):
        await read(to_liar)

    assert len(liar.requests) == 5
    assert time.slept == [0.25, 0.5, 1.0, 2.0]


async def test_busy_is_tried_again(liar: Liar, to_liar: StoreClient) -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503) if len(liar.requests) < 3 else await liar.honest(request)

    liar.answer = busy

    assert await read(to_liar, 10, 20) == CONTENT[10:30]


def fixed(status: int, body: bytes = b"", **headers: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return answer


LIES = {
    "ignores-the-range": (fixed(200, CONTENT), StoreError),
    "another-range": (fixed(206, b"x" * 10, **{"Content-Range": "bytes 7-16/99"}), StoreError),
    "too-short": (fixed(206, b"x" * 9, **{"Content-Range": "bytes 0-8/9"}), StoreCorrupt),
    "too-long": (fixed(206, b"x" * 11, **{"Content-Range": "bytes 0-9/99"}), StoreError),
    "redirects": (fixed(302, Location="https://evil.example/"), StoreError),
    "echoes-the-token": (fixed(418, b'{"reason":"agent-token","message":"agent-token"}'), StoreError),
    "forbids": (fixed(403, b"agent-token"), StoreRefused),
    "knows-no-token": (fixed(401), StoreRefused),
    "is-corrupt": (fixed(500, b'{"reason":"StoreCorrupt","message":""}'), StoreCorrupt),
    "is-broken": (fixed(500, b"<html>"), StoreUnreachable),
}


@pytest.mark.parametrize("lie", LIES)
async def test_lies_about_layers(liar: Liar, to_liar: StoreClient, lie: str) -> None:
    liar.answer, kind = LIES[lie]

    with pytest.raises(kind) as caught:
        await read(to_liar, 0, 10)

    error: BaseException | None = caught.value
    while error is not None:
        assert "agent-token" not in repr(error)
        error = error.__cause__


DOCUMENT = Digest.sha256(b"document")
DOCUMENT_LIES: dict[str, tuple[bytes, type[ImageCacheError]]] = {
    "altered": (b"documenT", DigestMismatch),
    "endless": (bytes(protocol.DOCUMENT_LIMIT + 1), LimitExceeded),
}


@pytest.mark.parametrize("lie", DOCUMENT_LIES)
async def test_lies_about_documents(liar: Liar, to_liar: StoreClient, lie: str) -> None:
    body, kind = DOCUMENT_LIES[lie]
    liar.answer = fixed(200, body)

    with pytest.raises(kind):
        await to_liar.document(DOCUMENT)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff"])
async def test_a_bundle_is_handed_on_as_it_came(liar: Liar, to_liar: StoreClient, body: bytes) -> None:
    """Nothing of it is read before somebody has compared its digest."""
    liar.answer = fixed(200, body)

    assert await to_liar.bundle(BUNDLE) == body


async def test_nobody_listens(served: Served, time: FakeTime) -> None:
    await served.stop()

    async with StoreClient(replace(served.settings(), sleep=time.sleep)) as client:
        with pytest.raises(StoreUnreachable):
            await client.bundle(BUNDLE)

    assert len(time.slept) == 4


async def test_a_certificate_of_another_authority(served: Served, tmp_path: Path) -> None:
    other, _ = make_certificate(tmp_path / "other")

    async with StoreClient(replace(served.settings(), ca_file=other)) as client:
        with pytest.raises(StoreRefused, match="not trusted"):
            await client.bundle(BUNDLE)


async def test_an_address_stands_for_the_name_of_the_certificate(served: Served) -> None:
    """Hosts resolve no names of the cluster; the certificate of a Service has only those."""
    settings = served.settings()
    assert "127.0.0.1" in settings.url
    async with StoreClient(replace(settings, name="localhost")) as client:
        with pytest.raises(NotFound):
            await client.bundle(BUNDLE)
    async with StoreClient(replace(settings, name="imagecache-store.other.svc")) as client:
        with pytest.raises(StoreRefused, match="not trusted"):
            await client.bundle(BUNDLE)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1", "https://"])
def test_never_without_tls(served: Served, url: str) -> None:
    with pytest.raises(InvalidSetting):
        StoreClient(replace(served.settings(), url=url))


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff\xfe"])
async def test_a_token_file_that_holds_none(served: Served, content: bytes | None) -> None:
    served.token_file.unlink()
    if content is not None:
        served.token_file.write_bytes(content)

    async with served.client() as client:
        with pytest.raises(StoreRefused, match=r"cannot be read|holds no token"):
            await client.bundle(BUNDLE)


async def test_the_token_is_read_again(served: Served, store: Store) -> None:
    document = put_bundle(store, BUNDLE, [DiffID(Digest.sha256(b"x"))], [b"x"])
    async with served.client() as client:
        served.reviewer.users = {"second-token": served.reviewer.users["agent-token"]}
        with pytest.raises(StoreRefused):
            await client.bundle(BUNDLE)

        served.token_file.write_text("second-token")

        assert await client.bundle(BUNDLE) == encode(document)


async def test_certificate_and_authority_are_replaced_while_both_run(
    served: Served, store: Store, tmp_path: Path
) -> None:
    document = put_bundle(store, BUNDLE, [DiffID(Digest.sha256(b"x"))], [b"x"])
    async with served.client() as client:
        assert await client.bundle(BUNDLE) == encode(document)
        certificate, key = make_certificate(tmp_path / "next")
        certificate.replace(served.certificate)
        key.replace(served.key)

        assert await client.bundle(BUNDLE) == encode(document)  # a new authority means a new connection


async def test_a_half_replaced_certificate_is_not_used(served: Served, store: Store) -> None:
    document = put_bundle(store, BUNDLE, [DiffID(Digest.sha256(b"x"))], [b"x"])
    served.key.write_text("half a k")

    async with served.client() as client:
        assert await client.bundle(BUNDLE) == encode(document)


async def test_a_restarted_server_is_waited_for(served: Served, store: Store) -> None:
    document = put_bundle(store, BUNDLE, [DiffID(Digest.sha256(b"x"))], [b"x"])
    await served.stop()

    async def start_it(_seconds: float) -> None:
        await served.start()

    async with StoreClient(replace(served.settings(), sleep=start_it)) as client:
        assert await client.bundle(BUNDLE) == encode(document)


async def test_many_layers_at_once(served: Served, store: Store) -> None:
    put_bundle(store, BUNDLE, [DiffID(NAME.digest)], [CONTENT])

    async with served.client() as client:
        found = await asyncio.gather(*(read(client, number, 70_000) for number in range(100)))

    assert all(found[number] == CONTENT[number : number + 70_000] for number in range(100))


async def test_a_connection_is_used_again(liar: Liar, to_liar: StoreClient) -> None:
    for number in range(3):
        await read(to_liar, number, 1000)

    assert len({request.transport for request in liar.requests}) == 1


@pytest.mark.parametrize("status", [401, 404, 416, 500, 503])
async def test_a_connection_is_used_again_after_a_refusal(liar: Liar, to_liar: StoreClient, status: int) -> None:
    """Nodes ask again and again for what a build has not begun: each time with a new handshake would be dear."""
    liar.answer = fixed(status, b'{"reason":"BlobNotFound","message":""}')
    for ask in (read(to_liar, 0, 10), to_liar.document(DOCUMENT), to_liar.building(BUNDLE, "amd64")):
        with pytest.raises(ImageCacheError):
            await ask

    assert len({request.transport for request in liar.requests}) == 1


async def test_no_connection_is_kept_whose_answer_comes_after_the_end(liar: Liar) -> None:
    begun, late = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        begun.set()
        await late.wait()
        return await liar.honest(request)

    liar.answer = slow
    settings = ClientSettings(f"https://127.0.0.1:{liar.port}", liar.certificate, liar.token_file)
    async with StoreClient(settings) as client:
        reading = asyncio.create_task(read(client, 0, 10))
        await begun.wait()
    late.set()

    assert await reading == CONTENT[:10]
    assert client._transport._idle == []


async def test_a_cancelled_read_lets_go_of_a_silent_server(liar: Liar, to_liar: StoreClient) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def silent(_request: web.Request) -> web.StreamResponse:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:  # aiohttp cancels a handler whose client has gone
            gone.set()
        return web.Response()

    liar.answer = silent
    reading = asyncio.create_task(read(to_liar))
    await begun.wait()

    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(5):
        await gone.wait()


async def test_what_is_no_http_is_tried_again_and_not_repeated(tmp_path: Path, time: FakeTime) -> None:
    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"agent-token agent-token agent-token\r\n\r\n")
        await writer.drain()
        writer.close()

    liar = Liar(tmp_path / "babbler")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(liar.certificate, liar._key)
    async with await asyncio.start_server(babble, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = ClientSettings(url, liar.certificate, liar.token_file, sleep=time.sleep)
        async with StoreClient(settings) as client:
            with pytest.raises(StoreUnreachable, match="malformed") as caught:
                await client.bundle(BUNDLE)

    assert len(time.slept) == 4
    assert caught.value.__cause__ is None
    assert "agent-token" not in repr(caught.value)


async def partial(client: StoreClient, offset: int, length: int) -> tuple[bytes, PartialRead]:
    found = bytearray(length)
    part = await client.partial(NAME, offset, memoryview(found))
    return bytes(found[: part.count]), part


def ranged(content_range: str, body: bytes, status: int = 206) -> Callable[[web.Request], Awaitable[web.Response]]:
    return fixed(status, body, **{"Content-Range": content_range})


async def test_a_layer_in_the_making_is_asked_for_once(liar: Liar, to_liar: StoreClient) -> None:
    liar.answer = ranged("bytes 7-11/*", b"hello")

    assert await partial(to_liar, 7, 10) == (b"hello", PartialRead(5, None))
    (request,) = liar.requests
    assert request.path == f"/v1/partial/{NAME}"
    assert request.headers["Range"] == "bytes=7-16"


@pytest.mark.parametrize(("headers", "size"), [({}, None), ({"Content-Range": "bytes */90"}, 90)])
async def test_nothing_new_of_a_layer_in_the_making(
    liar: Liar, to_liar: StoreClient, headers: dict[str, str], size: int | None
) -> None:
    liar.answer = fixed(416, b"no such range", **headers)

    for _ in range(2):  # the connection is good for more
        assert await partial(to_liar, 100, 10) == (b"", PartialRead(0, size))
    assert len({request.transport for request in liar.requests}) == 1


GROWING_LIES = {
    "ignores-the-range": (fixed(200, b"x" * 10), StoreError),
    "says-no-range": (fixed(206, b"x" * 10), StoreError),
    "before": (ranged("bytes 6-15/*", b"x" * 10), StoreError),
    "later": (ranged("bytes 8-16/*", b"x" * 9), StoreError),
    "farther": (ranged("bytes 7-17/*", b"x" * 11), StoreError),
    "backwards": (ranged("bytes 7-3/*", b"x" * 6), StoreError),
    "empty": (ranged("bytes 7-6/*", b""), StoreError),
    "behind-the-end": (ranged("bytes 7-16/16", b"x" * 10), StoreError),
    "other-units": (ranged("lines 7-16/*", b"x" * 10), StoreError),
    "huge": (ranged("bytes 7-16/" + "9" * 30, b"x" * 10), StoreError),
    "too-short": (ranged("bytes 7-16/*", b"x" * 9), StoreUnreachable),
    "too-long": (ranged("bytes 7-16/*", b"x" * 11), StoreUnreachable),
    "echoes-the-token": (fixed(418, b'{"reason":"agent-token","message":"agent-token"}'), StoreError),
    "forbids": (fixed(403, b"agent-token"), StoreRefused),
    "is-gone": (fixed(404, b'{"reason":"BlobNotFound","message":"agent-token"}'), BlobNotFound),
    "is-broken": (fixed(500, b"<html>"), StoreUnreachable),
}


@pytest.mark.parametrize("lie", GROWING_LIES)
async def test_lies_about_layers_in_the_making(liar: Liar, to_liar: StoreClient, time: FakeTime, lie: str) -> None:
    liar.answer, kind = GROWING_LIES[lie]

    with pytest.raises(kind) as caught:
        await partial(to_liar, 7, 10)

    assert type(caught.value) is kind
    assert len(liar.requests) == len(time.slept) + 1 == (5 if kind is StoreUnreachable else 1)
    error: BaseException | None = caught.value
    while error is not None:
        assert "agent-token" not in repr(error)
        error = error.__cause__


async def test_a_cut_answer_about_a_layer_in_the_making_is_asked_for_again(
    liar: Liar, to_liar: StoreClient, time: FakeTime
) -> None:
    cuts = iter([0, 1_500_000, 10])

    async def sometimes(request: web.Request) -> web.StreamResponse:
        after = next(cuts, None)
        return await (liar.honest(request) if after is None else liar.cut(request, after))

    liar.answer = sometimes

    assert await partial(to_liar, 10, 2_000_000) == (CONTENT[10:2_000_010], PartialRead(2_000_000, len(CONTENT)))
    assert [request.headers["Range"] for request in liar.requests] == ["bytes=10-2000009"] * 4
    assert len(time.slept) == 3


async def test_nobody_insists_on_a_layer_in_the_making(liar: Liar, to_liar: StoreClient, time: FakeTime) -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503) if len(liar.requests) < 2 else await liar.honest(request)

    liar.answer = busy

    with pytest.raises(StoreUnreachable, match="busy"):
        await partial(to_liar, 10, 20)

    assert (len(liar.requests), time.slept) == (1, [])
    assert await partial(to_liar, 10, 20) == (CONTENT[10:30], PartialRead(20, len(CONTENT)))
    assert len({request.transport for request in liar.requests}) == 1


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b"[1]", b'["layers"]', b'["layers/sha256:00"]', b'["layers/sha512:0"]', b"\xff"]
)
async def test_lies_about_builds(liar: Liar, to_liar: StoreClient, body: bytes) -> None:
    liar.answer = fixed(200, body)

    with pytest.raises(MalformedDocument, match="build"):
        await to_liar.building(BUNDLE, "amd64")


async def test_nobody_is_asked_for_the_build_of_an_impossible_bundle(liar: Liar, to_liar: StoreClient) -> None:
    with pytest.raises(InvalidInput):
        await to_liar.building("../" + BUNDLE, "amd64")
    assert liar.requests == []
