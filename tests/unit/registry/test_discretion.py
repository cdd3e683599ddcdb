"""One answer about all that is no registry: a status is no port scanner, and reads nothing back."""

from __future__ import annotations

import asyncio
import io
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from imagecache.errors import (
    ImageCacheError,
    ImageNotFound,
    InvalidSetting,
    ProtocolViolation,
    RegistryUnavailable,
    Unauthenticated,
)
from imagecache.limits import Limits
from imagecache.oci.reference import Reference
from imagecache.registry.client import RegistryClient
from imagecache.registry.listed_hosts import ListedHosts
from imagecache.telemetry import log
from testkit.images_oci import MemoryImage, memory_image
from testkit.registry import FakeRegistry
from testkit.served import make_certificate

from .conftest import Connect, read
from .elsewhere import LINK_LOCAL, PRIVATE, PUBLIC, Names, places

_KNOWN = {"some.example.": PRIVATE, "metadata.example.": LINK_LOCAL}


@pytest.fixture
def image() -> MemoryImage:
    return memory_image([b"layer " * 1000], compression="none")


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    log.configure(log_format="json", level="warning", stream=stream)
    yield stream
    log.configure()


class Site:
    """Something that listens where a registry was looked for."""

    def __init__(self, stack: AsyncExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory

    async def web(self, answer: Callable[[], web.Response], *, tls: bool = False) -> int:
        context = None
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*make_certificate(self._directory / "tls"))

        async def handle(_request: web.Request) -> web.Response:
            return answer()

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, PRIVATE, 0, ssl_context=context).start()
        port: int = runner.addresses[0][1]
        return port

    async def raw(self, answer: bytes) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if answer:
                writer.write(answer)
            else:
                await reader.read()
            writer.close()

        server = await asyncio.start_server(handle, PRIVATE, 0)
        await self._stack.enter_async_context(server)
        port: int = server.sockets[0].getsockname()[1]
        return port


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(stack, tmp_path)


def _page(status: int, text: str, kind: str, **headers: str) -> Callable[[], web.Response]:
    return lambda: web.Response(status=status, text=text, content_type=kind, headers=headers)


_WEB = {
    "a web page": _page(200, "<html>intranet</html>", "text/html"),
    "a document": _page(200, '{"secret": "word"}', "application/json"),
    "another type": _page(200, "word", "application/x-internal"),
    "not found": _page(404, "<html>nginx</html>", "text/html"),
    "forbidden": _page(403, '{"kind":"Status","code":403}', "application/json"),
    "a login": _page(401, "no", "text/plain", **{"WWW-Authenticate": 'Basic realm="intranet"'}),
    "a limit": _page(429, "no", "text/plain", **{"Retry-After": "3600"}),
    "an error": _page(500, "no", "text/plain"),
    "a redirect away": _page(302, "", "text/plain", Location="http://some.example/login"),
    "a redirect to nothing": _page(302, "", "text/plain", Location="gopher://x"),
    "a token server": _page(
        401, "no", "text/plain", **{"WWW-Authenticate": 'Bearer realm="http://metadata.example/t"'}
    ),
}


@pytest.mark.parametrize(
    "what",
    [
        *_WEB,
        "another protocol",
        "silence",
        "a closed port",
        "no such name",
        "metadata",
        "no TLS",
        "an unknown certificate",
    ],
)
async def test_one_answer_for_all_that_is_no_registry(
    connect: Connect, site: Site, logged: io.StringIO, what: str
) -> None:
    host, plain = "some.example", True
    if what in _WEB:
        port = await site.web(_WEB[what])
    elif what == "another protocol":
        port = await site.raw(b"SSH-2.0-OpenSSH_9.2\r\n")
    elif what == "no TLS":
        port, plain = await site.web(_WEB["a web page"]), False
    elif what == "an unknown certificate":
        port, plain = await site.web(_WEB["a web page"], tls=True), False
    elif what == "silence":
        port = await site.raw(b"")
    else:
        port = 1
        host = {"no such name": "none.example", "metadata": "metadata.example"}.get(what, host)
    address = f"{host}:{port}"
    client = await connect(
        discreet=True,
        listed=ListedHosts(frozenset({address}) if plain and what != "metadata" else frozenset()),
        plain_http=frozenset({address}) if plain and what != "metadata" else frozenset(),
        place_of=places,
        names=Names(_KNOWN),
        read_timeout=0.1,
        attempts=2,
    )

    with pytest.raises(ImageCacheError) as caught:
        await client.resolve(Reference.parse(f"{address}/team/app:1"))

    error = caught.value
    assert type(error) is RegistryUnavailable
    assert error.message == f"{address} did not answer as a registry"
    assert re.sub(r"some\.example:\d+", "", error.hint) == error.hint, "nothing but advice"
    assert error.image == f"{address}/team/app:1"
    assert "word" not in f"{error} {error.hint}"
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert [line["host"] for line in lines] == [address] * 2, "the administrator sees what has happened, each time"


async def test_what_a_registry_says_of_itself_is_told(connect: Connect, image: MemoryImage) -> None:
    async with FakeRegistry(host=PRIVATE) as registry:
        reference = Reference.parse(registry.push("team/app:1", image))
        config = {
            "discreet": True,
            "listed": ListedHosts(frozenset({registry.address})),
            "plain_http": frozenset({registry.address}),
            "place_of": places,
            "attempts": 1,
        }

        assert await read(await connect(**config), reference, image.layers[0])
        with pytest.raises(ImageNotFound, match="answers 404 MANIFEST_UNKNOWN to the request for manifest absent"):
            await (await connect(**config)).resolve(Reference.parse(f"{registry.address}/team/app:absent"))
        registry.auth = "basic"
        with pytest.raises(Unauthenticated, match="401") as caught:
            await (await connect(**config)).resolve(reference)
        assert "no credential" in caught.value.hint
        registry.auth = ""
        client = await connect(**config)
        await client.resolve(reference)
        registry.faults.statuses.append((503, {}))
        with pytest.raises(RegistryUnavailable, match="answers 503"):
            await client.resolve(reference)


async def whole(client: RegistryClient, reference: Reference, image: MemoryImage) -> None:
    await client.resolve(reference)
    await read(client, reference, image.layers[0])


async def test_where_a_registry_sends_us_is_not_told(
    connect: Connect, image: MemoryImage, site: Site, logged: io.StringIO
) -> None:
    """A hostile registry, which shows that it is one, and has us try addresses one after the other."""
    web_page = await site.web(_WEB["not found"])
    targets = [
        f"http://some.example:{web_page}",
        "http://some.example:1",
        "http://none.example",
        "http://metadata.example",
        "https://some.example:1",
    ]
    told = set()
    async with FakeRegistry(host=PRIVATE) as registry:
        reference = Reference.parse(registry.push("team/app:1", image))
        hosts = frozenset({registry.address, "some.example:1", f"some.example:{web_page}", "none.example"})
        for kind in ("redirect", "realm"):
            for target in targets:
                registry.faults.redirect_blobs = target if kind == "redirect" else ""
                registry.auth, registry.realm = ("bearer", f"{target}/token") if kind == "realm" else ("", "")
                client = await connect(
                    discreet=True,
                    listed=ListedHosts(hosts),
                    plain_http=frozenset({registry.address}),
                    place_of=places,
                    names=Names(_KNOWN),
                    attempts=1,
                )
                with pytest.raises(ImageCacheError) as caught:
                    await whole(client, reference, image)
                told.add((type(caught.value), str(caught.value), caught.value.hint))

    assert len(told) == 1
    assert "some.example" not in str(told)
    assert "metadata.example" in logged.getvalue()


async def test_on_a_plain_host_everything_is_told(connect: Connect, site: Site) -> None:
    """Whoever reads it can reach the address himself."""
    port = await site.web(_WEB["a web page"])
    host = f"some.example:{port}"
    client = await connect(
        listed=ListedHosts(frozenset({host})), plain_http=frozenset({host}), place_of=places, names=Names(_KNOWN)
    )

    with pytest.raises(ProtocolViolation, match="answers with a web page"):
        await client.resolve(Reference.parse(f"{host}/a:1"))


async def test_our_own_configuration_is_told(connect: Connect, tmp_path: Path) -> None:
    folder = tmp_path / "registry.example"
    folder.mkdir()
    (folder / "hosts.toml").write_text('ca = "absent.pem"\n')
    client = await connect(discreet=True, hosts_dir=tmp_path, names=Names({"registry.example.": PUBLIC}))

    with pytest.raises(InvalidSetting, match=re.escape("absent.pem")):
        await client.resolve(Reference.parse("registry.example/a:1"))


async def test_a_total_time_for_each_request_is_one_answer_too(
    connect: Connect, site: Site, logged: io.StringIO
) -> None:
    port = await site.raw(b"")
    host = f"some.example:{port}"
    client = await connect(
        discreet=True,
        listed=ListedHosts(frozenset({host})),
        plain_http=frozenset({host}),
        place_of=places,
        names=Names(_KNOWN),
        limits=Limits(answer_time=0.1),
        attempts=1,
    )

    with pytest.raises(RegistryUnavailable, match="did not answer as a registry"):
        await client.resolve(Reference.parse(f"{host}/a:1"))

    assert "in time" in logged.getvalue()
