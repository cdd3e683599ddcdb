"""Registries that fail: what is tried again, how blobs resume, and what cannot be believed."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest

from imagecache.digest import Digest
from imagecache.errors import DigestMismatch, ImageCacheError, ProtocolViolation, RateLimited, RegistryUnavailable
from imagecache.limits import Limits
from imagecache.oci import mediatypes
from imagecache.oci.reference import Reference
from imagecache.registry.client import RegistryClient
from imagecache.registry.config import RegistryConfig
from testkit.images_oci import MemoryImage
from testkit.registry import FakeRegistry, FakeTime, with_size

from .conftest import CONTENT, Connect, read


def ranges(registry: FakeRegistry) -> list[str | None]:
    return [seen.headers.get("Range") for seen in registry.seen if "/blobs/" in seen.path]


async def test_back_off_doubles(connect: Connect, registry: FakeRegistry, reference: Reference, time: FakeTime) -> None:
    registry.faults.statuses.extend([(500, {}), (502, {}), (503, {}), (504, {})])

    await (await connect()).resolve(reference)

    assert time.slept == [0.5, 1.0, 2.0, 4.0]


async def test_back_off_varies_and_ends(
    connect: Connect, registry: FakeRegistry, reference: Reference, time: FakeTime
) -> None:
    registry.faults.statuses.extend([(503, {})] * 7)

    await (await connect(backoff=replace(RegistryConfig().backoff, chance=lambda: 0.0), attempts=8)).resolve(reference)

    assert time.slept == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0]


async def test_retry_after_seconds_and_date(
    connect: Connect, registry: FakeRegistry, reference: Reference, time: FakeTime
) -> None:
    date = "Wed, 01 May 2024 12:00:33 GMT"  # the fake clock stands at 12:00:00
    registry.faults.statuses.extend([(429, {"Retry-After": "3"}), (503, {"Retry-After": date})])

    await (await connect()).resolve(reference)

    assert time.slept == [3.0, 30.0]


async def test_retry_after_is_honoured_in_the_middle_of_a_blob(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage, time: FakeTime
) -> None:
    client = await connect()
    registry.faults.truncate.append(2_000_000)
    stream = client.stream(reference, image.layers[0])
    first = await anext(stream)
    registry.faults.statuses.append((429, {"Retry-After": "11"}))

    rest = [chunk async for chunk in stream]

    assert b"".join([first, *rest]) == CONTENT
    assert time.slept == [0.5, 11.0]


async def test_too_much_patience_is_an_error(
    connect: Connect, registry: FakeRegistry, reference: Reference, time: FakeTime
) -> None:
    registry.faults.statuses.append((429, {"Retry-After": "3600"}))

    with pytest.raises(RateLimited) as caught:
        await (await connect()).resolve(reference)

    assert caught.value.retry_after == 3600
    assert caught.value.image == reference.original
    assert time.slept == []


@pytest.mark.parametrize(("status", "error"), [(429, RateLimited), (503, RegistryUnavailable)])
async def test_patience_ends(
    connect: Connect, registry: FakeRegistry, reference: Reference, status: int, error: type[ImageCacheError]
) -> None:
    registry.faults.statuses.extend([(status, {})] * 5)

    with pytest.raises(error, match=str(status)):
        await (await connect()).resolve(reference)

    assert len(registry.seen) == 5


@pytest.mark.parametrize("status", [400, 404, 405, 416, 418])
async def test_what_time_does_not_heal_is_not_tried_again(
    connect: Connect, registry: FakeRegistry, reference: Reference, status: int
) -> None:
    registry.faults.statuses.append((status, {}))

    with pytest.raises(ImageCacheError, match=str(status)):
        await (await connect()).resolve(reference)

    assert len(registry.seen) == 1


# blobs


async def test_a_broken_blob_goes_on_where_it_stopped(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage, time: FakeTime
) -> None:
    registry.faults.truncate.extend([1_500_000, 2_000_000])

    assert await read(await connect(), reference, image.layers[0]) == CONTENT

    assert ranges(registry) == [None, "bytes=1500000-", "bytes=3500000-"]
    assert time.slept == [0.5, 0.5], "progress makes patience new"


async def test_a_blob_without_a_length_goes_on_too(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.chunked = True
    registry.faults.truncate.append(1_500_000)

    assert await read(await connect(), reference, image.layers[0]) == CONTENT


async def test_a_server_that_ignores_ranges_is_read_again(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.ignore_range = True
    registry.faults.truncate.extend([1_500_000, 400_000])

    assert await read(await connect(), reference, image.layers[0]) == CONTENT
    assert await read(await connect(), reference, image.layers[0], 4_999_999) == CONTENT[-1:]


async def test_crumbs_are_no_progress(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.truncate.extend([1000] * 20)

    with pytest.raises(RegistryUnavailable, match="broke") as caught:
        await read(await connect(), reference, image.layers[0])

    assert len(ranges(registry)) == 5
    assert caught.value.image == reference.original


async def test_a_blob_of_another_length_is_refused_at_once(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    client = await connect()
    layer = image.layers[0]

    for size in (layer.size - 1, layer.size + 1):
        with pytest.raises(ProtocolViolation, match=f"its manifest says {size}") as caught:
            await read(client, reference, with_size(layer, size))
        assert caught.value.image == reference.original
    assert len(ranges(registry)) == 2


async def test_more_bytes_than_promised_never_come_out(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.chunked = True
    got = bytearray()
    client = await connect()

    async def take() -> None:
        async for chunk in client.stream(reference, with_size(image.layers[0], 1_000_001)):
            got.extend(chunk)

    with pytest.raises(ProtocolViolation, match="sends more than"):
        await take()

    assert len(got) <= 1_000_001


async def test_a_short_blob_without_a_length_is_an_error(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.chunked = True
    registry.faults.ignore_range = True

    with pytest.raises(RegistryUnavailable, match="ends after 5000000 of 5000001 bytes"):
        await read(await connect(), reference, with_size(image.layers[0], 5_000_001))


async def test_another_range_is_refused(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.wrong_range = True

    with pytest.raises(ProtocolViolation, match="another range"):
        await read(await connect(), reference, image.layers[0], 1000)


async def test_streams_do_not_verify(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    """The caller hashes: this is what it gets to hash."""
    other = bytes(len(CONTENT))
    registry.faults.replace[image.layers[0].digest] = other

    assert await read(await connect(), reference, image.layers[0]) == other


async def test_a_redirect_with_a_signature(
    connect: Connect, registry: FakeRegistry, other: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    other.push("team/app:1", image)
    registry.faults.redirect_blobs = other.url

    assert await read(await connect(), reference, image.layers[0], 10) == CONTENT[10:]

    assert ranges(other) == ["bytes=10-"]


async def test_redirects_without_end(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.redirect_forever = True

    with pytest.raises(ProtocolViolation, match="more than 2 times"):
        await read(await connect(limits=Limits(redirects=2)), reference, image.layers[0])

    assert len(registry.seen) == 3


@pytest.mark.parametrize("requests", [10, 11])
async def test_as_many_redirects_as_go_follows(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage, requests: int
) -> None:
    """Go's client makes ten requests for one, and says "stopped after 10 redirects" where the tenth is answered so."""
    path = f"/v2/{reference.path}/blobs/{image.layers[0].digest}"
    registry.faults.statuses.extend([(307, {"Location": path})] * (requests - 1))
    client = await connect()

    if requests == 10:
        assert await read(client, reference, image.layers[0]) == CONTENT
    else:
        with pytest.raises(ProtocolViolation, match="redirects more than 9 times"):
            await read(client, reference, image.layers[0])

    assert len(registry.seen) == 10


async def test_falling_back_to_plain_http_is_no_redirect(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.redirect_forever = True

    with pytest.raises(ProtocolViolation, match="more than 2 times"):
        await read(await connect(limits=Limits(redirects=2), plain_http=frozenset()), reference, image.layers[0])

    assert len(registry.seen) == 3


@pytest.mark.parametrize(
    "target", ["ftp://x", "http://user:word@", "file:///etc/passwd?", "//[bad", "http://b\u00fccher.example"]
)
async def test_redirects_to_somewhere_else(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage, target: str
) -> None:
    registry.faults.redirect_blobs = target

    with pytest.raises(ProtocolViolation, match="not an HTTP address") as caught:
        await read(await connect(), reference, image.layers[0])

    assert "word" not in str(caught.value)


# documents


async def test_a_document_with_other_bytes(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    client = await connect()
    assert image.config is not None
    for descriptor in (image.config, image.descriptor):
        registry.faults.replace[descriptor.digest] = b"x" * descriptor.size
        with pytest.raises(DigestMismatch) as caught:
            await client.document(reference, descriptor)
        assert caught.value.image == reference.original


async def test_an_image_by_digest_with_other_bytes(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.replace[image.descriptor.digest] = image.body + b" "
    by_digest = Reference.parse(f"{reference.repository}@{image.descriptor.digest}")

    with pytest.raises(DigestMismatch):
        await (await connect()).resolve(by_digest)


async def test_a_digest_header_that_lies(connect: Connect, registry: FakeRegistry, reference: Reference) -> None:
    client = await connect()
    registry.faults.digest_header = Digest.sha256(b"other")
    with pytest.raises(DigestMismatch):
        await client.resolve(reference)
    registry.faults.digest_header = "nonsense"
    with pytest.raises(ProtocolViolation, match="not a digest"):
        await client.resolve(reference)


async def test_no_digest_header(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    registry.faults.digest_header = ""

    assert (await (await connect()).resolve(reference)).descriptor == image.descriptor


async def test_ipv6(connect: Connect, image: MemoryImage) -> None:
    async with FakeRegistry(host="::1") as registry:
        reference = Reference.parse(registry.push("team/app:1", image))
        for plain in (frozenset({registry.address}), frozenset[str]()):
            client = await connect(plain_http=plain)
            assert (await client.resolve(reference)).descriptor == image.descriptor


# connections


async def test_nobody_listens(connect: Connect, registry: FakeRegistry, reference: Reference, time: FakeTime) -> None:
    client = await connect(attempts=3)
    await registry.__aexit__()

    with pytest.raises(RegistryUnavailable, match="cannot connect to") as caught:
        await client.resolve(reference)

    assert caught.value.image == reference.original
    assert caught.value.__cause__ is not None
    assert len(time.slept) == 2


async def test_an_unknown_host_is_not_tried_again(connect: Connect, time: FakeTime) -> None:
    reference = Reference.parse("registry.invalid/team/app:1")

    with pytest.raises(RegistryUnavailable, match=re.escape("registry.invalid")) as caught:
        await (await connect(attempts=2)).resolve(reference)

    assert "DNS" in caught.value.hint
    assert len(time.slept) <= 1


async def served(answer: bytes) -> asyncio.Server:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


async def test_what_is_not_http(connect: Connect) -> None:
    async with await served(b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

        with pytest.raises(ProtocolViolation, match="does not answer in HTTP"):
            await (await connect(plain_http=frozenset({address}))).resolve(Reference.parse(f"{address}/a:1"))


async def test_a_connection_that_ends_at_once(connect: Connect, time: FakeTime) -> None:
    async with await served(b"") as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

        with pytest.raises(RegistryUnavailable, match="broke"):
            await (await connect(plain_http=frozenset({address}))).resolve(Reference.parse(f"{address}/a:1"))

    assert len(time.slept) == 4


async def test_silence(connect: Connect) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = await connect(plain_http=frozenset({address}), read_timeout=0.05, attempts=2)

        with pytest.raises(RegistryUnavailable, match="did not answer in time"):
            await client.resolve(Reference.parse(f"{address}/a:1"))


async def test_plain_http_on_loopback_is_found_out_once(
    connect: Connect, reference: Reference, image: MemoryImage
) -> None:
    client = await connect(plain_http=frozenset())

    assert (await client.resolve(reference)).descriptor == image.descriptor
    assert await read(client, reference, image.layers[0]) == CONTENT


async def test_a_client_is_used_inside_its_context(reference: Reference, registry: FakeRegistry) -> None:
    with pytest.raises(RuntimeError, match="outside"):
        await RegistryClient().resolve(reference)
    assert registry.seen == []


def test_accept_lists_both_families() -> None:
    assert {mediatypes.OCI_INDEX, mediatypes.DOCKER_MANIFEST} <= set(mediatypes.RESOLVABLE)
