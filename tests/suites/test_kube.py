"""The Kube suite over the fake, and over our client with the fake behind HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from imagecache.kube.client import KubeClient
from imagecache.kube.connection import Connection
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer
from testkit.suites.kube import KubeSuite

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
