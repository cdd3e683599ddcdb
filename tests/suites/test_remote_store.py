from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.fetch.remote_store import RemoteStore
from imagecache.served.store_reader import StoreReader
from imagecache.store.bundle_document import Bundle, build_name
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.partial_layer import PartialLayerWriter
from testkit.served import MemoryRemoteStore, Served
from testkit.store import put_bundle
from testkit.suites.remote_store import BUNDLE, BundleOrigin, BundleSuite, Origin, PartialLayer, Read, RemoteStoreSuite


class DirectoryOrigin:
    def __init__(self, root: Path) -> None:
        self._store = Store.open(root)

    def publish(self, bundle_id: str, contents: Sequence[bytes]) -> Bundle:
        return put_bundle(self._store, bundle_id, [DiffID(Digest.sha256(content)) for content in contents], contents)


class StoreOrigin(DirectoryOrigin):
    """A real store and a reader of it. Use as a context manager: when it ends, the build and its partial layers end."""

    def __init__(self, root: Path, remote: RemoteStore) -> None:
        super().__init__(root)
        self.remote = remote
        self._stack = ExitStack()
        self._lease = self._stack.enter_context(self._store.leases.build_lease(build=build_name(BUNDLE, "amd64")))

    def begin(self, name: LayerName) -> PartialLayer:
        self._lease.add([name])
        return self._stack.enter_context(PartialLayerWriter(self._store, name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


@dataclass
class MemoryPartialLayer:
    memory: MemoryRemoteStore
    name: LayerName

    def write(self, content: bytes) -> None:
        self.memory.unfinished[self.name] += content

    def finish(self) -> None:
        self.memory.layers[self.name] = self.memory.unfinished.pop(self.name)

    def abandon(self) -> None:
        del self.memory.unfinished[self.name]


class MemoryOrigin(StoreOrigin):
    def __init__(self, root: Path) -> None:
        self._memory = MemoryRemoteStore()
        super().__init__(root, self._memory)
        self._reader = StoreReader(root)

    def publish(self, bundle_id: str, contents: Sequence[bytes]) -> Bundle:
        document = super().publish(bundle_id, contents)
        self._memory.add_store(self._reader, bundle_id)
        return document

    def begin(self, name: LayerName) -> PartialLayer:
        if name.space is Space.LAYERS:
            key = (BUNDLE, "amd64")
            self._memory.builds[key] = (*self._memory.builds.get(key, ()), name)
        self._memory.unfinished[name] = b""
        return MemoryPartialLayer(self._memory, name)


class TestMemoryRemoteStore(RemoteStoreSuite):
    @pytest.fixture
    def origin(self, tmp_path: Path) -> Iterator[Origin]:
        with MemoryOrigin(tmp_path / "store") as origin:
            yield origin


class TestBundlesOfADirectory(BundleSuite):
    @pytest.fixture
    def origin(self, tmp_path: Path) -> BundleOrigin:
        return DirectoryOrigin(tmp_path / "store")

    @pytest.fixture
    def read(self, tmp_path: Path) -> Read:
        reader = StoreReader(tmp_path / "store")
        return lambda bundle_id: asyncio.to_thread(reader.bundle, bundle_id)


class TestServedStore(RemoteStoreSuite):
    @pytest.fixture
    async def origin(self, tmp_path: Path) -> AsyncIterator[Origin]:
        async with Served(tmp_path / "store", tmp_path / "tls") as served, served.client() as client:
            with StoreOrigin(tmp_path / "store", client) as origin:
                yield origin
