"""Where a registry may send us: only where it is itself, checked on the address of the connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from yarl import URL

from imagecache.errors import ImageCacheError, ProtocolViolation
from imagecache.oci.reference import Reference
from imagecache.registry.client import RegistryClient
from imagecache.registry.http_proxy import Proxies
from imagecache.registry.listed_hosts import ListedHosts
from testkit.images_oci import MemoryImage, memory_image
from testkit.registry import FakeRegistry
from testkit.served import make_certificate

from .conftest import Connect, read
from .elsewhere import LINK_LOCAL, LOOPBACK, PRIVATE, PUBLIC, Names, places


@pytest.fixture
def image() -> MemoryImage:
    return memory_image([b"layer " * 1000], compression="none")


@asynccontextmanager
async def at(address: str, **more: str) -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry(host=address, users={"alice": "s3cr3t-word"}, **more) as registry:  # type: ignore[arg-type]
        yield registry


def all_http(*registries: FakeRegistry) -> dict[str, object]:
    """As if the administrator listed all of them: that a server is listed makes it no target."""
    hosts = frozenset(registry.address for registry in registries)
    return {"listed": ListedHosts(hosts), "plain_http": hosts, "place_of": places}


async def blob(client: RegistryClient, reference: Reference, image: MemoryImage) -> bytes:
    await client.resolve(reference)
    return await read(client, reference, image.layers[0])


_TARGETS = [
    (PUBLIC, PUBLIC, True),
    (PUBLIC, PRIVATE, False),
    (PUBLIC, LINK_LOCAL, False),
    (PUBLIC, LOOPBACK, False),
    (PRIVATE, PUBLIC, True),
    (PRIVATE, PRIVATE, True),
    (PRIVATE, LINK_LOCAL, False),
    (PRIVATE, LOOPBACK, False),
    (LOOPBACK, PRIVATE, True),
    (LOOPBACK, LOOPBACK, True),
    (LOOPBACK, LINK_LOCAL, False),
]


@pytest.mark.parametrize(("here", "there", "allowed"), _TARGETS)
async def test_redirects(connect: Connect, image: MemoryImage, here: str, there: str, allowed: bool) -> None:
    async with at(here) as registry, at(there) as other:
        reference = Reference.parse(registry.push("team/app:1", image))
        other.push("team/app:1", image)
        registry.faults.redirect_blobs = other.url
        client = await connect(**all_http(registry, other))

        if allowed:
            assert await blob(client, reference, image) == image.blobs[image.layers[0].digest]
        else:
            with pytest.raises(ProtocolViolation, match="must not be asked"):
                await blob(client, reference, image)
            assert other.seen == []


@pytest.mark.parametrize(("here", "there", "allowed"), _TARGETS)
async def test_token_servers(connect: Connect, image: MemoryImage, here: str, there: str, allowed: bool) -> None:
    """Their answer is sent to the registry, as a token."""
    async with at(here, auth="bearer") as registry, at(there) as other:
        reference = Reference.parse(registry.push("team/app:1", image))
        registry.realm = f"{other.url}/token"
        registry.public.add("team/app")
        other.public.add("team/app")
        registry.tokens = other.tokens
        client = await connect(**all_http(registry, other))

        if allowed:
            await client.resolve(reference)
            assert other.paths() == ["/token"]
        else:
            with pytest.raises(ProtocolViolation, match="must not be asked"):
                await client.resolve(reference)
            assert other.seen == []
            assert {seen.authorization for seen in registry.seen} == {""}


@asynccontextmanager
async def listener(address: str) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port, and what connections to it have brought: an empty one is a connection."""
    got: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(b"")
        got.append(await reader.read(100))
        writer.close()

    async with await asyncio.start_server(handle, address, 0) as server:
        yield server.sockets[0].getsockname()[1], got


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", [PRIVATE, LOOPBACK, "internal.example"])
async def test_a_name_is_checked_after_dns_and_before_a_connection(
    connect: Connect, image: MemoryImage, host: str, scheme: str
) -> None:
    names = Names({"internal.example.": PRIVATE})
    async with at(PUBLIC) as registry, listener(LOOPBACK if host == LOOPBACK else PRIVATE) as (port, got):
        reference = Reference.parse(registry.push("team/app:1", image))
        registry.faults.redirect_blobs = f"{scheme}://{host}:{port}"
        config = all_http(registry) | {
            "listed": ListedHosts(frozenset({registry.address, f"{host}:{port}"})),
            "names": names,
        }

        with pytest.raises(ProtocolViolation, match="must not be asked"):
            await blob(await connect(**config), reference, image)

        assert got == []


async def test_a_connection_that_is_used_again_is_checked_again(connect: Connect, image: MemoryImage) -> None:
    """One image is of an internal registry, another of a public one that sends us there."""
    async with at(PRIVATE) as internal, at(PUBLIC) as registry:
        name = f"internal.example:{internal.address.rpartition(':')[2]}"
        inside = Reference.parse(internal.push("team/app:1", image).replace(internal.address, name))
        reference = Reference.parse(registry.push("team/app:1", image))
        registry.faults.redirect_blobs = f"http://{name}"
        hosts, names = frozenset({name, registry.address}), Names({"internal.example.": PRIVATE})
        client = await connect(listed=ListedHosts(hosts), plain_http=hosts, place_of=places, names=names)
        await client.resolve(inside)
        asked = len(internal.seen)

        with pytest.raises(ProtocolViolation, match="must not be asked"):
            await blob(client, reference, image)

        assert len(internal.seen) == asked
        assert names.asked == ["internal.example."], "the connection was there"


async def test_a_name_that_leads_somewhere_else_the_second_time(connect: Connect, image: MemoryImage) -> None:
    """DNS rebinding: the name of a storage service that was on the internet a moment ago."""
    async with at(PUBLIC) as registry, at(PUBLIC) as storage, listener(PRIVATE) as (_port, got):
        reference = Reference.parse(registry.push("team/app:1", image))
        storage.push("team/app:1", image)
        port = storage.address.rpartition(":")[2]
        known = {"storage.example.": PUBLIC}
        registry.faults.redirect_blobs = f"http://storage.example:{port}"
        listed = ListedHosts(frozenset({registry.address, f"storage.example:{port}"}))
        client = await connect(**all_http(registry) | {"listed": listed, "names": Names(known), "connections": 1})
        assert await blob(client, reference, image)
        known["storage.example."] = PRIVATE
        second = await connect(**all_http(registry) | {"listed": listed, "names": Names(known)})

        with pytest.raises(ProtocolViolation, match="must not be asked"):
            await blob(second, reference, image)

        assert got == []


@pytest.mark.parametrize("host", [LOOPBACK, LINK_LOCAL, "evil.example"])
async def test_the_registry_itself_is_not_on_our_loopback(connect: Connect, host: str) -> None:
    """Nor where a cloud has its metadata, unless an administrator lists it."""
    address = LINK_LOCAL if host == LINK_LOCAL else LOOPBACK
    async with listener(address) as (port, got):
        names = Names({"evil.example.": LOOPBACK})
        client = await connect(listed=ListedHosts(), plain_http=frozenset(), names=names, place_of=places)

        with pytest.raises(ProtocolViolation, match="must not be asked") as caught:
            await client.resolve(Reference.parse(f"{host}:{port}/a:1"))

        assert "insecure_registries" in caught.value.hint
        assert got == []


@pytest.mark.parametrize("host", [LINK_LOCAL, "internal.example"])
async def test_a_proxy_does_not_lead_there_either(connect: Connect, image: MemoryImage, host: str) -> None:
    """Of what a proxy reaches we see names and literals only: the latter are refused, the former are the proxy's."""
    async with at(PUBLIC) as registry, at(LOOPBACK) as proxy:
        reference = Reference.parse(registry.push("team/app:1", image))
        registry.faults.redirect_blobs = f"http://{host}"
        listed = ListedHosts(frozenset({registry.address, host}))
        proxies = Proxies(http=URL(proxy.url), exempt=(PUBLIC,))
        client = await connect(**all_http(registry) | {"listed": listed, "proxies": proxies})

        with pytest.raises(ImageCacheError):
            await blob(client, reference, image)

        assert bool(proxy.seen) is (host != LINK_LOCAL)


# mirrors


@pytest.mark.parametrize(
    ("address", "allowed"), [(PUBLIC, True), (PRIVATE, True), (LOOPBACK, False), (LINK_LOCAL, False)]
)
async def test_mirrors(connect: Connect, image: MemoryImage, tmp_path: Path, address: str, *, allowed: bool) -> None:
    """They are the administrator's choice, so private ones are asked; those where no registry is are left out."""
    async with at(PUBLIC) as registry, at(address) as mirror:
        reference = Reference.parse(registry.push("team/app:1", image))
        mirror.push("team/app:1", image)
        folder = tmp_path / registry.address
        folder.mkdir()
        (folder / "hosts.toml").write_text(f'server = "{registry.url}"\n[host."{mirror.url}"]\n')
        hosts = frozenset({registry.address})
        client = await connect(hosts_dir=tmp_path, listed=ListedHosts(hosts), plain_http=hosts, place_of=places)

        assert await blob(client, reference, image) == image.blobs[image.layers[0].digest]

        assert bool(mirror.seen) is allowed
        assert bool(registry.seen) is not allowed


@pytest.mark.parametrize("there", [LOOPBACK, LINK_LOCAL])
async def test_a_mirror_leads_no_further_than_a_registry(
    connect: Connect, image: MemoryImage, tmp_path: Path, there: str
) -> None:
    async with at(PUBLIC) as registry, at(PRIVATE) as mirror, at(there) as other:
        reference = Reference.parse(registry.push("team/app:1", image))
        for each in (mirror, other):
            each.push("team/app:1", image)
        mirror.faults.redirect_blobs = other.url
        folder = tmp_path / registry.address
        folder.mkdir()
        (folder / "hosts.toml").write_text(f'server = "{registry.url}"\n[host."{mirror.url}"]\n')
        client = await connect(**all_http(registry, mirror, other), hosts_dir=tmp_path)

        assert await blob(client, reference, image) == image.blobs[image.layers[0].digest]

        assert (bool(mirror.seen), other.seen) == (True, [])


# https stays https


@pytest.fixture
async def encrypted(tmp_path: Path) -> AsyncIterator[tuple[FakeRegistry, Path]]:
    """A registry with a certificate, and that."""
    certificate, key = make_certificate(tmp_path / "tls")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with FakeRegistry(tls=context, users={"alice": "s3cr3t-word"}) as registry:
        yield registry, certificate


async def test_no_redirect_from_https_to_http(
    connect: Connect, encrypted: tuple[FakeRegistry, Path], other: FakeRegistry, image: MemoryImage
) -> None:
    registry, certificate = encrypted
    reference = Reference.parse(registry.push("team/app:1", image))
    other.push("team/app:1", image)
    client = await connect(plain_http=frozenset(), authorities=(certificate,))
    assert await blob(client, reference, image)
    registry.faults.redirect_blobs = other.url

    with pytest.raises(ProtocolViolation, match="from HTTPS to plain HTTP"):
        await blob(client, reference, image)

    assert other.seen == []


async def test_no_plain_http_to_what_nobody_lists(connect: Connect, image: MemoryImage) -> None:
    async with at(PUBLIC) as registry, at(PUBLIC) as other:
        reference = Reference.parse(registry.push("team/app:1", image))
        other.push("team/app:1", image)
        for change in ("redirect", "realm"):
            registry.faults.redirect_blobs = other.url if change == "redirect" else ""
            registry.auth, registry.realm = ("bearer", f"{other.url}/token") if change == "realm" else ("", "")

            with pytest.raises(ProtocolViolation) as caught:
                await blob(await connect(**all_http(registry)), reference, image)

            assert "insecure_registries" in caught.value.hint
        assert other.seen == []
