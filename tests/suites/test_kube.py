"""The Kube suite over the fake, over our client with the fake behind HTTP, and over files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio

from imagecache.clock import SystemClock
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import Connection
from imagecache.kube.files import FileKube
from imagecache.kube.object_files import ObjectFiles
from imagecache.kube.resources import IMAGE_CACHES
from imagecache.kube.secret_directory import SecretDirectory
from imagecache.store.paths import StorePaths
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer
from testkit.suites.kube import KubeSuite, ObjectSuite, PodSuite

TOKEN = "of the fake"  # noqa: S105 - it is the one that the fake wants


class TestFakeKube(KubeSuite):
    @pytest.fixture
    def kube(self) -> FakeKube:
        return FakeKube()


class TestKubeClient(KubeSuite):
    @pytest_asyncio.fixture
    async def kube(self) -> AsyncIterator[KubeClient]:  # type: ignore[override]  # pytest hands out what it yields
        server = KubeServer(FakeKube(), token=TOKEN)
        async with server, KubeClient(Connection(server.url, token=TOKEN)) as client:
            yield client


class TestFakePods(PodSuite):
    @pytest.fixture
    def kube(self) -> FakeKube:
        return FakeKube()


class TestClientPods(PodSuite):
    @pytest_asyncio.fixture
    async def kube(self) -> AsyncIterator[KubeClient]:  # type: ignore[override]  # pytest hands out what it yields
        server = KubeServer(FakeKube(), token=TOKEN)
        async with server, KubeClient(Connection(server.url, token=TOKEN)) as client:
            yield client


class TestFileKube(ObjectSuite):
    resource = IMAGE_CACHES
    body: ClassVar[Object] = {"spec": {"images": ["nginx:1.25"]}}

    @pytest.fixture
    def kube(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileKube:
        monkeypatch.setattr("imagecache.kube.files._POLL", 0.01)
        files = ObjectFiles(StorePaths(tmp_path / "store"))
        return FileKube(files, SecretDirectory(tmp_path / "secrets"), SystemClock())
