"""Programs that build images, in a container whose root is cached, beside one on overlayfs: podman, buildah, BuildKit.

Docker brings BuildKit. In a privileged container, as CI systems run them; what they build needs no registry.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imagecache._proto.cri import runtime_pb2 as pb
from testkit.peers.cri import Cri
from testkit.peers.registry import Registry
from testkit.real_images import builders_image
from tests.peers.sides import MANY, Running, Side, Sides, deepened, on_2_4

# not on 1.6 as well: it takes minutes, and such a program sees the same mounts in proxy mode
pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300), on_2_4]
PRIVILEGED = pb.LinuxContainerSecurityContext(privileged=True)
VOLUME, ROOT = "/mnt", "/srv"
"""Where they keep what they build: a tmpfs, and the container's own root, on which no overlay can stand."""
PLACES = (("overlay", VOLUME), ("vfs", VOLUME), ("vfs", ROOT))
"""Their storage drivers."""
CONTEXT = r"""
mkdir -p /srv/context/tmp && cd /srv/context && cp /bin/busybox . && mount -t tmpfs none /mnt && cat >Dockerfile <<'END'
FROM scratch
COPY busybox /bin/busybox
COPY tmp /tmp
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox mkdir /made && echo built >/made/file && /bin/busybox rm -r /tmp"]
END
"""
"""The image has a file that it makes, and not the directory that a layer of it brings and another one removes."""
LOOK = "/bin/busybox find /made /bin; /bin/busybox cat /made/file; /bin/busybox test ! -e /tmp"
FOUND = ["/made", "/made/file", "/bin", "/bin/busybox", "built"]
NO_OVERLAY = "'overlay' is not supported over overlayfs"


@pytest.fixture(scope="module")
def builders(both: Sides, peers_directory: Path, field_registry: Registry) -> Iterator[str]:
    """Reference of an image of 127 layers with the programs, on both sides."""
    image = deepened(peers_directory / f"builders-{both.version}-{both.mode}", builders_image(), MANY)
    reference = field_registry.push(f"field/builders:{MANY}", image)
    both.node.create("builders", [reference])
    asyncio.run(_pull(both.theirs, reference))
    yield reference
    both.node.command("delete", "builders")


async def _pull(side: Side, reference: str) -> None:
    async with Cri(side.containerd.address) as cri:
        await cri.pull(reference)


@asynccontextmanager
async def prepared(side: Side, image: str) -> AsyncIterator[Running]:
    """A container with a Dockerfile in /srv/context, and a volume."""
    async with side.running(image, security=PRIVILEGED) as inside:
        await inside.sh(CONTEXT)
        yield inside


def stored(program: str, driver: str, place: str) -> str:
    """The program, with its images there."""
    return f"{program} --storage-driver {driver} --root {place}/store-{driver} --runroot {place}/run-{driver}"


async def refusal(inside: Running, program: str) -> str:
    """What it says to an overlay on the root."""
    refused = await inside.ask(f"{stored(program, 'overlay', ROOT)} build --isolation chroot /srv/context")
    assert refused.code != 0
    return refused.stderr.splitlines()[0]


async def test_podman_builds_and_runs(both: Sides, builders: str) -> None:
    run = "run --rm --network none --cgroup-manager cgroupfs"

    async def ask(side: Side) -> list[str]:
        found = []
        async with prepared(side, builders) as inside:
            for place in PLACES:
                podman = stored("podman", *place)
                await inside.sh(f"{podman} build --isolation chroot --tag made /srv/context")
                found.append(await inside.sh(f"{podman} {run} made /bin/busybox sh -c '{LOOK}'"))
            return [*found, await refusal(inside, "podman")]

    *seen, refused = await both.same(ask)
    assert [each.split() for each in seen] == [FOUND] * len(PLACES)
    assert NO_OVERLAY in refused


async def test_buildah_builds_and_mounts(both: Sides, builders: str) -> None:
    async def ask(side: Side) -> list[str]:
        found = []
        async with prepared(side, builders) as inside:
            for place in PLACES:
                buildah = stored("buildah", *place)
                await inside.sh(f"{buildah} build --isolation chroot --tag made /srv/context")
                look = f"chroot $({buildah} mount $({buildah} from made)) /bin/busybox sh -c '{LOOK}'"
                found.append(await inside.sh(look))
            return [*found, await refusal(inside, "buildah")]

    *seen, refused = await both.same(ask)
    assert [each.split() for each in seen] == [FOUND] * len(PLACES)
    assert NO_OVERLAY in refused


@pytest.mark.parametrize(("driver", "place"), [("overlay2", VOLUME), ("vfs", ROOT)])
async def test_docker_builds_with_buildkit_and_runs(both: Sides, builders: str, driver: str, place: str) -> None:
    daemon = (
        f"dockerd --storage-driver {driver} --data-root {place}/docker --exec-root {place}/run"
        " --iptables=false --ip-forward=false --bridge=none >/srv/log 2>&1 &"
        " for each in $(seq 300); do docker info >/srv/info 2>&1 && break; sleep 0.1; done; docker info || cat /srv/log"
    )

    async def ask(side: Side) -> str:
        async with prepared(side, builders) as inside:
            assert f"Storage Driver: {driver}" in await inside.sh(daemon)
            await inside.sh("DOCKER_BUILDKIT=1 docker build --network none --tag made /srv/context")
            return await inside.sh(f"docker run --rm --network none made /bin/busybox sh -c '{LOOK}'")

    assert (await both.same(ask)).split() == FOUND
