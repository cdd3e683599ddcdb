"""The containerd suite on the fake, and on a real containerd of each version."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from imagecache.clock import SystemClock
from imagecache.containerd.api import Containerd
from imagecache.containerd.client import ContainerdClient
from imagecache.errors import ContainerdUnavailable
from testkit.containerd import MemoryContainerd
from testkit.peers.containerd import VERSIONS
from testkit.peers.containerd import Containerd as RealContainerd
from testkit.peers.workspace import workspace
from testkit.suites.containerd import ContainerdSuite


class TestInMemory(ContainerdSuite):
    @pytest.fixture
    async def containerd(self) -> Containerd:
        return MemoryContainerd()


@pytest.fixture(scope="module", params=VERSIONS)
def real(request: pytest.FixtureRequest) -> Iterator[RealContainerd]:
    with workspace() as directory, RealContainerd(directory / "node", request.param) as running:
        yield running


@pytest.mark.peers
class TestReal(ContainerdSuite):
    @pytest.fixture
    async def containerd(self, real: RealContainerd) -> AsyncIterator[Containerd]:
        async with ContainerdClient(real.address, SystemClock()) as client:
            yield client


@pytest.mark.peers
async def test_a_client_outlives_a_restart_of_containerd(real: RealContainerd) -> None:
    async with ContainerdClient(real.address, SystemClock()) as client:
        before = await client.version()
        real.stop()
        with pytest.raises(ContainerdUnavailable):
            await client.version()
        real.start()
        assert await client.version() == before


async def test_no_socket() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with ContainerdClient(Path(directory, "none.sock"), SystemClock()) as client:
            with pytest.raises(ContainerdUnavailable, match="no socket") as caught:
                await client.version()
    assert "start containerd" in caught.value.hint
