"""Registries that drip: a request has a least rate and a longest time, and nobody waits without end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imagecache.digest import Digest
from imagecache.errors import RegistryUnavailable
from imagecache.limits import KIB, MIB, Limits
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference
from testkit.images_oci import MemoryImage
from testkit.registry import FakeRegistry

from .conftest import CONTENT, Connect, read

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
QUICK = Limits(transfer_rate=64 * KIB, transfer_window=0.2, answer_time=0.2)
HUGE = Descriptor(media_type=mediatypes.OCI_LAYER, digest=Digest.sha256(b"huge"), size=100 * MIB)


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Its address, and the heads of the requests that it got."""
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as running:
        yield f"127.0.0.1:{running.sockets[0].getsockname()[1]}", asked


async def drip(writer: asyncio.StreamWriter, piece: bytes = b"x") -> None:
    """Often enough that no read ever times out."""
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.02)


async def dripping_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    await drip(writer)


HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: {mediatypes.OCI_MANIFEST}\r\nConnection: close\r\n\r\n".encode()


async def dripping_body(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    await drip(writer)


async def good_start(writer: asyncio.StreamWriter) -> None:
    """A megabyte at once, which would count as progress, and then drops."""
    writer.write(HEAD + bytes(MIB + 1))
    await drip(writer)


@pytest.mark.parametrize("answer", [dripping_headers, dripping_body])
@pytest.mark.parametrize("what", ["manifest", "blob"])
async def test_a_registry_that_drips(connect: Connect, answer: Answer, what: str) -> None:
    async with server(answer) as (address, asked):
        client = await connect(plain_http=frozenset({address}), limits=QUICK, attempts=2)
        reference = Reference.parse(f"{address}/team/app:1")

        with pytest.raises(RegistryUnavailable) as caught:
            await (client.resolve(reference) if what == "manifest" else read(client, reference, HUGE))

    slow = answer is dripping_body
    assert ("too slowly" if slow else "in time") in caught.value.message
    assert not slow or "at least 64 KiB/s" in caught.value.message
    assert caught.value.image == reference.original
    ours = [each for each in asked if b"imagecache/" in each]  # who had the port before may be asked still
    assert len(ours) == 2


async def test_what_arrives_before_it_drips_is_no_progress(connect: Connect) -> None:
    """Else it would be asked again as often as it likes, a megabyte each time."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        position = re.search(rb"Range: bytes=(\d+)-", asked[-1])
        if position is None:
            await good_start(writer)
        else:
            part = f"Content-Range: bytes {position[1].decode()}-{HUGE.size - 1}/{HUGE.size}\r\n"
            writer.write(f"HTTP/1.1 206 Part\r\n{part}Connection: close\r\n\r\n".encode() + bytes(MIB + 1))
            await drip(writer)

    async with server(answer) as (address, asked):
        client = await connect(plain_http=frozenset({address}), limits=QUICK, attempts=3)

        with pytest.raises(RegistryUnavailable, match="too slowly"):
            await read(client, Reference.parse(f"{address}/team/app:1"), HUGE)

    assert len(asked) == 3


async def test_an_error_that_drips(connect: Connect) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 100000\r\n\r\n")
        await drip(writer)

    async with server(answer) as (address, _):
        client = await connect(plain_http=frozenset({address}), limits=QUICK, attempts=1)

        with pytest.raises(RegistryUnavailable, match="503"):
            await client.resolve(Reference.parse(f"{address}/team/app:1"))


async def test_a_token_that_drips(connect: Connect, registry: FakeRegistry, reference: Reference) -> None:
    registry.auth = "bearer"
    async with server(dripping_body) as (address, _):
        registry.realm = f"http://{address}/token"
        client = await connect(limits=Limits(transfer_rate=64 * KIB, transfer_window=0.2), attempts=1)

        with pytest.raises(RegistryUnavailable, match="too slowly"):
            await client.resolve(reference)


async def test_a_mirror_that_drips_is_left(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage, tmp_path: Path
) -> None:
    """The registry itself goes on where it has stopped."""
    async with server(good_start) as (address, asked):
        folder = tmp_path / registry.address.replace(":", "_").join(["", "_"])
        folder.mkdir()
        (folder / "hosts.toml").write_text(f'server = "{registry.url}"\n[host."http://{address}"]\n')
        client = await connect(hosts_dir=tmp_path, limits=QUICK)

        got = await read(client, reference, image.layers[0])

    assert len(asked) == 1
    assert len(got) == len(CONTENT)
    assert got[2 * MIB :] == CONTENT[2 * MIB :], (
        "what the mirror has sent before is wrong, and the caller's to find out"
    )


async def test_a_reader_that_is_slow_is_nobody_elses_fault(
    connect: Connect, registry: FakeRegistry, reference: Reference, image: MemoryImage
) -> None:
    client = await connect(limits=Limits(transfer_rate=100 * MIB, transfer_window=0.2), read_buffer=4096)
    stream = client.stream(reference, image.layers[0])
    got = bytearray(await anext(stream))
    await asyncio.sleep(0.3)
    async for piece in stream:
        got += piece

    assert got == CONTENT
    assert len(registry.seen) == 1
