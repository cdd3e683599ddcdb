"""containerd's configuration is written anew, as k3s, nodeadm and Ansible do it: on each containerd, with pods.

containerd discards the blobs of what it has unpacked, as on EKS: then an image starts in one snapshotter alone, the
pause image too.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError

from imagecache.apps.containerd_config import repair_before_start
from imagecache.clock import SystemClock
from imagecache.errors import ContainerdMisconfigured
from imagecache.host.config_guard import SETTLED
from imagecache.host.systemd_units import SERVICE
from testkit.images import busybox_image, tar_of
from testkit.peers.containerd import VERSIONS, Containerd
from testkit.peers.cri import Cri
from testkit.peers.programs import containerd_24, find
from testkit.peers.registry import Registry
from tests.peers.host import Host

pytestmark = pytest.mark.peers
DATA = tar_of({"srv": None, "srv/data": b"from the cache\n"})
READ = ["cat", "/srv/data"]
SNAPSHOTTER = 'snapshotter = "overlayfs"\n'
RESTART = "restart containerd.service"


class Later(SystemClock):
    """Files that were written just now are not being written any more."""

    def now(self) -> dt.datetime:
        return super().now() + dt.timedelta(seconds=2 * SETTLED)


@pytest.fixture(params=VERSIONS)
def host(request: pytest.FixtureRequest, directory: Path, pause: str) -> Iterator[Host]:
    containerd = Containerd(directory / "containerd", request.param, sandbox_image=pause)
    text = containerd.config.read_text()
    containerd.config.write_text(text.replace(SNAPSHOTTER, f"{SNAPSHOTTER}    discard_unpacked_layers = true\n"))
    made = Host(directory, containerd)
    containerd.start()
    yield made
    made.close()


@pytest.fixture
def imported(host: Host) -> str:
    """The main file as a tool writes it, with a directory that it imports."""
    return host.containerd.config.read_text()


@pytest.fixture
def bare(imported: str) -> str:
    """The same without imports."""
    return re.sub(r"^imports = .*\n", "", imported, flags=re.MULTILINE)


@pytest.fixture
def app(directory: Path, registry: Registry) -> str:
    return registry.push(f"{directory.name.lower()}/app:1", busybox_image(directory / "image", DATA))


@pytest.fixture
async def cri(host: Host, bare: str, pause: str) -> AsyncIterator[Cri]:
    """Of a host with the host service."""
    del bare  # what it reads was written before the service was installed
    await host.install()
    async with Cri(host.containerd.address) as client:
        await client.pull(pause)
        yield client


async def start_with(host: Host, text: str) -> None:
    """As a boot of a node whose tool writes containerd's file."""
    host.containerd.config.write_text(text)
    await asyncio.to_thread(host.containerd.restart)


async def is_ours(host: Host) -> bool:
    _, _, ours = await asyncio.to_thread(host.service().look)
    assert ours is not None
    return ours


async def runs_at_last(cri: Cri, image: str) -> str:
    """kubelet tries again, too."""
    deadline = asyncio.get_running_loop().time() + 30
    while True:
        try:
            return await cri.run(image, READ)
        except GRPCError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)


async def test_a_rewritten_file_costs_no_pod(host: Host, cri: Cri, bare: str, app: str) -> None:
    host.cache(app)
    assert await cri.run(app, READ) == "from the cache\n"
    await start_with(host, bare)
    with pytest.raises(GRPCError, match="not found"):
        await cri.run(app, READ)

    with pytest.raises(ContainerdMisconfigured, match="repair is report"):
        await asyncio.to_thread(host.guard(Later(), repair=False).check)
    await cri.until_absent(app)
    await cri.pull(app)
    assert await cri.run(app, READ) == "from the cache\n", "by containerd's own snapshotter"
    assert not await is_ours(host)

    await asyncio.to_thread(host.guard(Later()).check)
    assert host.manager.calls[-1] == RESTART
    assert await is_ours(host)
    # attaches again, as an agent does whose own guard has deleted the records
    await asyncio.to_thread(host.manager.restart, SERVICE)
    assert await runs_at_last(cri, app) == "from the cache\n"


async def test_what_was_pulled_meanwhile_starts_whoever_restarts_containerd(
    host: Host, cri: Cri, bare: str, app: str
) -> None:
    """An administrator mends the file, and the agent that has seen it has ended."""
    configured = host.containerd.config.read_text()
    await start_with(host, bare)
    with pytest.raises(ContainerdMisconfigured, match="repair is report"):
        await asyncio.to_thread(host.guard(Later(), repair=False).check)
    await cri.pull(app)
    assert await cri.run(app, READ) == "from the cache\n", "by containerd's own snapshotter, which keeps no blobs"
    await start_with(host, configured)
    with pytest.raises(GRPCError, match="not found"):
        await cri.run(app, READ)

    before = list(host.manager.calls)
    await asyncio.to_thread(host.guard(Later()).check)
    assert host.manager.calls == before
    await cri.until_absent(app)
    await cri.pull(app)
    assert await runs_at_last(cri, app) == "from the cache\n"


async def test_a_changed_file_is_repaired_without_a_restart(host: Host, cri: Cri, bare: str, app: str) -> None:
    host.cache(app)
    before = list(host.manager.calls)
    host.containerd.config.write_text(bare)
    await asyncio.to_thread(host.guard(Later()).check)
    assert host.manager.calls == before

    await asyncio.to_thread(host.containerd.restart)
    assert await is_ours(host)
    assert await cri.run(app, READ) == "from the cache\n"


async def test_an_imported_directory_survives_every_start(host: Host, cri: Cri, imported: str, app: str) -> None:
    """As with k3s and RKE2, where nothing can run between the file and containerd."""
    host.cache(app)
    assert host.containerd.config.read_text() == imported
    await start_with(host, f"# written again\n{imported}")

    assert await is_ours(host)
    assert await cri.run(app, READ) == "from the cache\n"


async def test_repair_before_containerd_starts(host: Host, cri: Cri, bare: str, app: str) -> None:
    host.cache(app)
    await asyncio.to_thread(host.containerd.stop)
    host.containerd.config.write_text(bare)
    assert await asyncio.to_thread(repair_before_start, host.settings, program(host), host.manager.files)

    await asyncio.to_thread(host.containerd.start)
    assert await is_ours(host)
    assert await cri.run(app, READ) == "from the cache\n"
    assert not await asyncio.to_thread(repair_before_start, host.settings, program(host), host.manager.files)


async def test_what_containerd_cannot_read_is_not_repaired_again(host: Host, cri: Cri, bare: str) -> None:
    del cri
    unreadable = bare.replace("[grpc]", '[grpc]\n  max_recv_message_size = "large"')
    host.containerd.config.write_text(unreadable)
    with pytest.raises(ContainerdMisconfigured, match="cannot read its configuration"):
        await asyncio.to_thread(repair_before_start, host.settings, program(host), host.manager.files)

    assert host.containerd.config.read_text() == unreadable
    assert host.manager.files.at(host.manager.files.refused).exists()
    assert not await asyncio.to_thread(repair_before_start, host.settings, program(host), host.manager.files)


def program(host: Host) -> str:
    """What the node's unit starts. The PATH has another version, as nodes do that once had Debian's."""
    return str(find("containerd") if host.containerd.version == "system" else containerd_24() / "containerd")
