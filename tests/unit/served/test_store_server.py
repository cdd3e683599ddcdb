"""The server as any HTTP client sees it."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import structlog
from multidict import CIMultiDictProxy
from structlog.testing import capture_logs

from imagecache.digest import DiffID, Digest
from imagecache.errors import KubernetesUnavailable, StoreError
from imagecache.served.authenticator import Authenticator, AuthenticatorSettings, Caller
from imagecache.served.server_certificate import ServerCertificate
from imagecache.served.server_settings import ServerSettings
from imagecache.served.store_reader import StoreReader
from imagecache.served.store_server import StoreServer
from imagecache.store.bundle_document import Bundle, build_name
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.clock import FakeClock
from testkit.partial_layer import NO_HEAD, PartialLayerWriter
from testkit.served import AGENT, Served
from testkit.store import put_bundle

BUNDLE = "imc-" + "0" * 20
CONTENT = bytes(range(256)) * 20
_SECRET = "a-very-secret-token"  # noqa: S105 - stands for one
NAME = LayerName(space=Space.LAYERS, digest=Digest.sha256(b"growing"))
GROWING = f"/v1/partial/{NAME}"
TOKEN = {"Authorization": "Bearer agent-token"}


@dataclass(frozen=True)
class Response:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def reason(self) -> str:
        return str(json.loads(self.body)["reason"])


class Browser:
    def __init__(self, served: Served) -> None:
        self._served = served

    async def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Response:
        trust = ssl.create_default_context(cafile=self._served.certificate)
        sent = TOKEN if headers is None else headers
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self._served.url + path, headers=sent, ssl=trust) as response,
        ):
            return Response(response.status, response.headers, await response.read())


@pytest.fixture
def bundle(store: Store) -> Bundle:
    return put_bundle(store, BUNDLE, [DiffID(Digest.sha256(CONTENT))], [CONTENT])


@pytest.fixture
def browser(served: Served) -> Browser:
    return Browser(served)


@pytest.fixture
def layer(bundle: Bundle) -> str:
    return f"/v1/layers/{bundle.images[0].layers[0].name}"


async def test_a_layer_knows_its_digest_once_its_bundle_was_asked_for(browser: Browser, layer: str) -> None:
    before = await browser.get(layer)
    await browser.get(f"/v1/bundles/{BUNDLE}")
    after = await browser.get(layer)

    assert "ETag" not in before.headers
    assert after.headers["ETag"] == f'"{Digest.sha256(CONTENT)}"'
    assert (after.status, after.body) == (200, CONTENT)
    assert "immutable" in after.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [("0-0", 0, 1), ("5-", 5, len(CONTENT)), ("-7", len(CONTENT) - 7, len(CONTENT)), ("100-99999", 100, len(CONTENT))],
)
async def test_ranges(browser: Browser, layer: str, wanted: str, start: int, end: int) -> None:
    answer = await browser.get(layer, {**TOKEN, "Range": f"bytes={wanted}"})

    assert (answer.status, answer.body) == (206, CONTENT[start:end])
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"


@pytest.mark.parametrize(
    "wanted", ["bytes=99999-", "bytes=9-3", "bytes=0-1,3-4", "lines=1-2", "bytes=x-", "bytes=-", "bytes=-0"]
)
async def test_impossible_ranges(browser: Browser, layer: str, wanted: str) -> None:
    answer = await browser.get(layer, {**TOKEN, "Range": wanted})

    assert (answer.status, answer.reason) == (416, "InvalidInput")
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


async def test_head_says_the_size(browser: Browser, layer: str) -> None:
    answer = await browser.get(layer, method="HEAD")

    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(CONTENT))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/bundles/imc-../../etc/passwd",
        "/v1/bundles/nothing",
        "/v1/blobs/sha256:abc",
        "/v1/layers/blobs/sha256:" + "0" * 64,
        "/v1/layers/layers/..%2f..%2findex.json",
        "/v1/builds/nothing",
        "/v1/builds/imc-*",
        "/v1/builds/..%2f..%2findex.json",
        "/v1/partial/blobs/sha256:" + "0" * 64,
        "/v1/partial/layers/..%2f..%2findex.json",
    ],
)
async def test_names_that_are_none(browser: Browser, path: str) -> None:
    answer = await browser.get(path)

    assert answer.status in {400, 404}
    assert answer.reason in {"InvalidInput", "InvalidDigest", "NotFound"}


async def test_what_is_not_there(browser: Browser, bundle: Bundle) -> None:
    absent = Digest.sha256(b"absent")

    assert (await browser.get("/v1/bundles/imc-" + "9" * 20)).reason == "NotFound"
    assert (await browser.get(f"/v1/blobs/{absent}")).reason == "BlobNotFound"
    assert (await browser.get(f"/v1/layers/layers/{absent}")).status == 404
    assert (await browser.get(f"/v1/partial/layers/{absent}", {**TOKEN, "Range": "bytes=0-9"})).reason == "BlobNotFound"
    assert (await browser.get("/v1/partial")).status == 404
    assert (await browser.get("/v2/")).status == 404
    assert (await browser.get(f"/v1/bundles/{bundle.id}", method="DELETE")).status == 405


async def test_a_corrupt_document_is_not_sent(browser: Browser, store: Store, bundle: Bundle) -> None:
    digest = bundle.images[0].config.digest
    path = store.paths.blob(digest)
    path.chmod(0o600)
    path.write_bytes(b"rotten")

    answer = await browser.get(f"/v1/blobs/{digest}")

    assert (answer.status, answer.reason) == (500, "StoreCorrupt")
    assert path.read_bytes() == b"rotten"  # served read-only: nothing is moved


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Basic YWdlbnQtdG9rZW4="}, 401),
        ({"Authorization": "Bearer stranger"}, 401),
        ({"Authorization": "Bearer pod-token"}, 403),
        ({"Authorization": "bearer agent-token"}, 200),
    ],
)
async def test_only_agents_get_anything(
    browser: Browser, served: Served, layer: str, headers: dict[str, str], status: int
) -> None:
    served.reviewer.users["pod-token"] = Caller("system:serviceaccount:default:default")

    growing = f"/v1/partial/{layer.removeprefix('/v1/layers/')}"

    assert (await browser.get(layer, headers)).status == status
    assert (await browser.get(f"/v1/bundles/{BUNDLE}", headers)).status == status
    assert (await browser.get(f"/v1/builds/{BUNDLE}/amd64", headers)).status == status
    assert (await browser.get(growing, {**headers, "Range": "bytes=0-9"})).status == (206 if status == 200 else status)


async def test_who_nobody_can_judge_comes_back_later(browser: Browser, served: Served, layer: str) -> None:
    served.reviewer.problem = KubernetesUnavailable("the API server does not answer")

    answer = await browser.get(layer)

    assert (answer.status, answer.reason) == (503, "KubernetesUnavailable")
    assert answer.headers["Retry-After"] == "1"


async def test_no_token_in_logs_and_answers(browser: Browser, served: Served, layer: str) -> None:
    structlog.reset_defaults()
    served.reviewer.problem = KubernetesUnavailable("the API server does not answer")

    with capture_logs() as logs:
        answers = [await browser.get(layer, {"Authorization": f"Bearer {_SECRET}"}) for _ in range(2)]

    assert logs
    assert _SECRET not in repr(logs)
    assert all(_SECRET.encode() not in answer.body for answer in answers)


async def test_probes_need_no_token(browser: Browser, store: Store) -> None:
    assert (await browser.get("/livez", {})).status == 200
    assert (await browser.get("/readyz", {})).status == 200

    store.paths.index.unlink()

    assert (await browser.get("/livez", {})).status == 200
    assert (await browser.get("/readyz", {})).status == 503


async def test_every_address_of_the_host(store: Store, served: Served) -> None:
    authenticator = Authenticator(served.reviewer, FakeClock(), AuthenticatorSettings(frozenset()))
    tls = ServerCertificate(served.certificate, served.key).context
    server = StoreServer(StoreReader(store.root), authenticator, ServerSettings(port=0), tls=tls)
    served.port = await server.start()

    try:
        assert (await Browser(served).get("/livez", {})).status == 200
    finally:
        await server.stop()
        await server.stop()


async def test_an_address_that_is_taken(served: Served, tmp_path: Path) -> None:
    second = Served(tmp_path / "store", tmp_path / "tls2")
    second.port = served.port

    with pytest.raises(StoreError, match="cannot listen"):
        await second.start()


@pytest.fixture
def making(store: Store) -> Iterator[PartialLayerWriter]:
    with PartialLayerWriter(store, NAME) as making:
        making.write(NO_HEAD + CONTENT)
        yield making


async def test_the_layers_of_a_build(browser: Browser, store: Store) -> None:
    chain = LayerName(space=Space.CHAINS, digest=NAME.digest)
    other = LayerName(space=Space.LAYERS, digest=Digest.sha256(b"other"))

    with (
        store.leases.build_lease([other, chain, NAME], [NAME.digest], build=build_name(BUNDLE, "amd64")),
        store.leases.build_lease([chain], build=build_name(BUNDLE, "arm64")),
        store.leases.build_lease([NAME], build=build_name(BUNDLE, "arm")),
    ):
        answer = await browser.get(f"/v1/builds/{BUNDLE}/amd64")
        others = [await browser.get(f"/v1/builds/{BUNDLE}/{each}") for each in ("arm64", "arm")]
        nobodys = await browser.get(f"/v1/builds/imc-{'1' * 20}/amd64")

    assert (answer.status, json.loads(answer.body)) == (200, [str(other), str(NAME)])
    assert answer.headers["Content-Type"] == "application/json"
    assert (nobodys.status, nobodys.body) == (200, b"[]")
    assert [json.loads(each.body) for each in others] == [[], [str(NAME)]]


@pytest.mark.parametrize("path", ["imc-short/amd64", f"imc-{'A' * 20}/amd64", f"{BUNDLE}/AMD64", f"{BUNDLE}/a-b"])
async def test_a_build_has_the_id_of_a_bundle(browser: Browser, path: str) -> None:
    answer = await browser.get(f"/v1/builds/{path}")

    assert (answer.status, answer.reason) == (400, "InvalidInput")


@pytest.mark.usefixtures("making")
async def test_a_range_of_a_layer_in_the_making(browser: Browser) -> None:
    answer = await browser.get(GROWING, {**TOKEN, "Range": "bytes=4096-4105"})
    head = await browser.get(GROWING, {**TOKEN, "Range": "bytes=4096-4105"}, method="HEAD")

    assert (answer.status, answer.body) == (206, CONTENT[:10])
    assert answer.headers["Content-Range"] == "bytes 4096-4105/*"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "ETag" not in answer.headers
    assert (head.status, head.body, head.headers["Content-Length"]) == (206, b"", "10")


async def test_a_layer_that_was_in_the_making(browser: Browser, making: PartialLayerWriter) -> None:
    making.finish()
    size = len(NO_HEAD + CONTENT)

    answer = await browser.get(GROWING, {**TOKEN, "Range": "bytes=4096-999999"})
    behind = await browser.get(GROWING, {**TOKEN, "Range": f"bytes={size}-{size}"})

    assert (answer.status, answer.body) == (206, CONTENT)
    assert answer.headers["Content-Range"] == f"bytes 4096-{size - 1}/{size}"
    assert answer.headers["Cache-Control"] == "no-store"
    assert (behind.status, behind.headers["Content-Range"]) == (416, f"bytes */{size}")


@pytest.mark.usefixtures("making")
@pytest.mark.parametrize(
    "wanted", [None, "bytes=4096-", "bytes=-5", "bytes=-", "bytes=9-3", "bytes=0-1,3-4", "lines=1-2", "bytes=x-9"]
)
async def test_a_layer_in_the_making_is_asked_for_from_here_to_there(browser: Browser, wanted: str | None) -> None:
    answer = await browser.get(GROWING, {**TOKEN, "Range": wanted} if wanted else TOKEN)

    assert (answer.status, answer.reason) == (400, "InvalidInput")


class Watched(StoreReader):
    """Says when somebody has looked at a layer image in the making."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.looked = threading.Event()

    def tar_extent(self, fd: int) -> tuple[int, bool]:
        found = super().tar_extent(fd)
        self.looked.set()
        return found


@pytest.mark.usefixtures("making")
async def test_the_server_stops_while_readers_wait_for_a_layer(store: Store, served: Served) -> None:
    authenticator = Authenticator(served.reviewer, FakeClock(), AuthenticatorSettings(frozenset({AGENT})))
    reader, tls = Watched(store.root), ServerCertificate(served.certificate, served.key).context
    server = StoreServer(reader, authenticator, ServerSettings(port=0, host="127.0.0.1"), tls=tls)
    await served.stop()
    served.port = await server.start()
    far = {**TOKEN, "Range": "bytes=4096-99999999"}
    reading = [asyncio.create_task(Browser(served).get(GROWING, far)) for _ in range(3)]
    assert await asyncio.to_thread(reader.looked.wait, 30)

    with capture_logs() as logs:
        async with asyncio.timeout(2):
            await server.stop()

    answers = await asyncio.gather(*reading, return_exceptions=True)
    assert [type(each) for each in answers if not isinstance(each, aiohttp.ClientError)] == []
    assert [line for line in logs if line["log_level"] == "warning"] == []
