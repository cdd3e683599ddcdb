from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.served.directory import StoreReader
from imagecache.served.ports import RemoteStore
from imagecache.served.volume import DirectoryStore
from imagecache.store.model import SnapshotDocument
from imagecache.store.store import Store
from imagecache.testing.served import MemoryRemoteStore, Served
from imagecache.testing.store import put_snapshot
from imagecache.testing.suites.remote_store import Origin, RemoteStoreSuite


class StoreOrigin:
    """A remote store in front of a real one."""

    def __init__(self, root: Path, remote: RemoteStore) -> None:
        self.remote = remote
        self._store = Store.open(root)

    def publish(self, snapshot_id: str, contents: Sequence[bytes]) -> SnapshotDocument:
        return put_snapshot(
            self._store, snapshot_id, [DiffID(Digest.sha256(content)) for content in contents], contents
        )


class MemoryOrigin(StoreOrigin):
    def __init__(self, root: Path) -> None:
        self._memory = MemoryRemoteStore()
        super().__init__(root, self._memory)
        self._reader = StoreReader(root)

    def publish(self, snapshot_id: str, contents: Sequence[bytes]) -> SnapshotDocument:
        document = super().publish(snapshot_id, contents)
        self._memory.add_store(self._reader, snapshot_id)
        return document


class TestMemoryRemoteStore(RemoteStoreSuite):
    @pytest.fixture
    def origin(self, tmp_path: Path) -> Origin:
        return MemoryOrigin(tmp_path / "store")


class TestDirectoryStore(RemoteStoreSuite):
    @pytest.fixture
    def origin(self, tmp_path: Path) -> Origin:
        return StoreOrigin(tmp_path / "store", DirectoryStore(tmp_path / "store"))


class TestServedStore(RemoteStoreSuite):
    @pytest.fixture
    async def origin(self, tmp_path: Path) -> AsyncIterator[Origin]:
        async with Served(tmp_path / "store", tmp_path / "tls") as served, served.client() as client:
            yield StoreOrigin(tmp_path / "store", client)
