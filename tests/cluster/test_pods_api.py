"""The real API server does with pods what the suite says that the fake does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from imagecache.kube.client import KubeClient
from imagecache.kube.connection import kubeconfig
from testkit.cluster.cluster import Cluster
from testkit.suites.kube import PodSuite

pytestmark = pytest.mark.peers


class TestPods(PodSuite):
    @pytest_asyncio.fixture
    async def kube(self, cluster: Cluster) -> AsyncIterator[KubeClient]:  # type: ignore[override]  # pytest hands out what it yields
        async with KubeClient(kubeconfig(cluster.kubeconfig)) as client:
            yield client
