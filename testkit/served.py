"""A remote store in memory, token reviews from a table, and a served store with its certificate.

``MemoryRemoteStore`` is the fake of ``fetch.remote_store.RemoteStore``; its fields inject faults.
``Served`` is the real server, with TLS on loopback. They must not check more than the Protocols promise.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from imagecache.clock import Clock
from imagecache.digest import Digest
from imagecache.errors import BlobNotFound, ImageCacheError, NotFound, StoreCorrupt, StoreUnreachable
from imagecache.layer import frames
from imagecache.limits import GIB, MIB
from imagecache.served.access import NodeCaches
from imagecache.served.authenticator import Authenticator, AuthenticatorSettings, Caller
from imagecache.served.protocol import BLOCK
from imagecache.served.server_certificate import ServerCertificate
from imagecache.served.server_settings import ServerSettings
from imagecache.served.store_client import BlockRead, ClientSettings, PartialRead, StoreClient
from imagecache.served.store_reader import StoreReader
from imagecache.served.store_server import StoreServer
from imagecache.store.bundle_document import Bundle, encode
from imagecache.store.expected_bundle import ExpectedBundle, expected_bundle
from imagecache.store.layer_name import LayerName
from imagecache.store.packed_blocks import PackedBlocks
from imagecache.store.paths import StorePaths
from testkit.clock import FakeClock

AGENT = "system:serviceaccount:imagecache:imagecache-agent"
_PIECE = 64 << 10


@dataclass
class MemoryRemoteStore:
    bundles: dict[str, Bundle] = field(default_factory=dict)
    documents: dict[Digest, bytes] = field(default_factory=dict)
    layers: dict[LayerName, bytes] = field(default_factory=dict)
    fetched: Counter[LayerName] = field(default_factory=Counter)
    """Bytes that were sent, by layer image."""
    down: bool = False
    """Every request raises StoreUnreachable."""
    damage: Counter[LayerName] = field(default_factory=Counter)
    """In that many answers, the layer's last byte is a wrong one."""
    on_piece: Callable[[LayerName, int], ImageCacheError | None] = lambda _name, _offset: None
    """Called before each piece. An error that it returns is raised."""

    packs: bool = True
    """Whether blocks are compressed, but for short ones."""
    no_blocks: ImageCacheError | None = None
    """What a request for a block raises, after a moment; None: it is answered."""
    spoil: Callable[[bytes], bytes] = lambda packed: packed
    """What becomes of a compressed block on its way."""

    builds: dict[tuple[str, str], tuple[LayerName, ...]] = field(default_factory=dict)
    """Layer images that running builds may make, by bundle id and architecture."""
    unfinished: dict[LayerName, bytes] = field(default_factory=dict)
    """Partial layers, as far as they are written."""

    def add_store(self, reader: StoreReader, bundle_id: str) -> None:
        """Copy a bundle, and all that it names, from a store."""
        document = self.bundles[bundle_id] = reader.bundle(bundle_id)
        for digest in document.document_digests():
            self.documents[digest] = reader.document(digest)
        for name in document.layer_names():
            fd, size = reader.open_layer(name)
            with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
                self.layers[name] = file.read(size)

    async def bundle(self, bundle_id: str) -> bytes:
        self._answer()
        if bundle_id not in self.bundles:
            raise NotFound(f"no bundle {bundle_id}")
        return encode(self.bundles[bundle_id])

    def expected(self, bundle_id: str) -> ExpectedBundle:
        """As the API server has the bundle, when this store does not lie."""
        return expected_bundle(self.bundles[bundle_id])

    async def document(self, digest: Digest) -> bytes:
        self._answer()
        if digest not in self.documents:
            raise BlobNotFound(f"no document {digest}")
        return self.documents[digest]

    async def layer(self, name: LayerName, offset: int, target: memoryview) -> None:
        self._answer()
        if name not in self.layers:
            raise BlobNotFound(f"no layer image {name}")
        end = offset + len(target)
        content = self._content(name, end)
        if end > len(content):
            raise StoreCorrupt(f"layer image {name} ends at {len(content)}")
        for start in range(offset, end, _PIECE):
            problem = self.on_piece(name, start)
            if problem is not None:
                raise problem
            piece = content[start : min(start + _PIECE, end)]
            target[start - offset :][: len(piece)] = piece
            self.fetched[name] += len(piece)
            await asyncio.sleep(0)

    async def block(self, name: LayerName, number: int, target: memoryview) -> BlockRead:
        if self.no_blocks is not None:
            await asyncio.sleep(0.5)
            raise self.no_blocks
        if not self.packs or len(target) < MIB:
            await self.layer(name, number * BLOCK, target)
            return BlockRead(len(target), packed=False)
        block = bytearray(len(target))
        sent = self.fetched[name]
        await self.layer(name, number * BLOCK, memoryview(block))
        packed = self.spoil(frames.pack(memoryview(block)))
        self.fetched[name] = sent + len(packed)
        target[: len(packed)] = packed
        return BlockRead(len(packed), packed=True)

    async def building(self, bundle_id: str, architecture: str) -> tuple[LayerName, ...]:
        self._answer()
        return self.builds.get((bundle_id, architecture), ())

    async def partial(self, name: LayerName, offset: int, target: memoryview) -> PartialRead:
        await asyncio.sleep(0.001)
        self._answer()
        finished = name in self.layers
        if not finished and name not in self.unfinished:
            raise BlobNotFound(f"no layer image {name}")
        content = self._content(name, offset + len(target)) if finished else self.unfinished[name]
        piece = content[offset : offset + len(target)]
        problem = self.on_piece(name, offset)
        if problem is not None:
            raise problem
        target[: len(piece)] = piece
        self.fetched[name] += len(piece)
        return PartialRead(len(piece), len(content) if finished else None)

    def _content(self, name: LayerName, end: int) -> bytes:
        content = self.layers[name]
        if end < len(content) or not self.damage[name]:
            return content
        self.damage[name] -= 1
        return content[:-1] + bytes([content[-1] ^ 0xFF])

    def _answer(self) -> None:
        if self.down:
            raise StoreUnreachable("the store does not answer")


@dataclass
class TableReviewer:
    """Users by token; records the tokens it was asked about."""

    users: dict[str, Caller] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    problem: ImageCacheError | None = None
    asks: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each review."""
    silent: asyncio.Event | None = None
    """Reviews wait until it is set."""

    async def review(self, token: str) -> Caller | None:
        self.asked.append(token)
        self.asks.set()
        if self.silent is not None:
            await self.silent.wait()
        if self.problem is not None:
            raise self.problem
        return self.users.get(token)


def make_certificate(directory: Path, name: str = "server", *more: str) -> tuple[Path, Path]:
    """A self-signed certificate for loopback, and more as ``DNS:host``, with its key; it is its own authority."""
    directory.mkdir(parents=True, exist_ok=True)
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for_names = ("IP:127.0.0.1", "DNS:localhost", *more)
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={','.join(for_names)}", "-days", "30"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return certificate, key


class Served:
    """A store directory behind the real server, and the settings for a client of it."""

    def __init__(
        self,
        root: Path,
        workspace: Path,
        *,
        clock: Clock | None = None,
        server: ServerSettings = ServerSettings(),  # noqa: B008 - immutable
        caches: NodeCaches | None = None,
    ) -> None:
        self.reviewer = TableReviewer({"agent-token": Caller(AGENT)})
        self.certificate, self.key = make_certificate(workspace)
        self.token_file = workspace / "token"
        self.token_file.write_text("agent-token\n")
        self._root = root
        self._authenticator = Authenticator(
            self.reviewer, clock or FakeClock(), AuthenticatorSettings(frozenset({AGENT}))
        )
        self._settings = server
        self._caches = caches
        self._server: StoreServer | None = None
        self.port = 0

    async def start(self) -> None:
        """Serve. After a ``stop``, on the same port as before."""
        settings = replace(self._settings, host="127.0.0.1", port=self.port)
        tls = ServerCertificate(self.certificate, self.key).context
        self._server = StoreServer(
            StoreReader(self._root),
            self._authenticator,
            settings,
            tls=tls,
            caches=self._caches,
            packed=PackedBlocks(StorePaths(self._root), GIB),
        )
        self.port = await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def settings(self) -> ClientSettings:
        return ClientSettings(url=self.url, ca_file=self.certificate, token_file=self.token_file)

    def client(self) -> StoreClient:
        return StoreClient(self.settings())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
