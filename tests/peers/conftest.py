"""Real parts shared by the tests here: one registry for the run, a containerd and a CRI client for each test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from testkit.images import busybox_image, pause_image
from testkit.oci_layout import Image
from testkit.peers.cluster import Cluster
from testkit.peers.cluster import cluster as make_cluster
from testkit.peers.containerd import VERSIONS, Containerd
from testkit.peers.cri import Cri
from testkit.peers.processes import mounts_below, processes_of
from testkit.peers.registry import Registry
from testkit.peers.workspace import clean, workspace
from tests.peers.sides import VARIANTS as SIDES
from tests.peers.sides import Sides, push_images, sides

USER = ("user", "correct horse")
"""Name and password."""


@pytest.fixture(scope="session")
def peers_directory() -> Iterator[Path]:
    """The run's workspace. Nothing may be alive or mounted in it when the last test is done."""
    with workspace() as directory:
        yield directory
        assert not processes_of(directory), "processes left behind"
        assert not mounts_below(directory), "mounts left behind"


@pytest.fixture
def directory(peers_directory: Path) -> Iterator[Path]:
    """A test's own directory, with a path short enough for unix sockets and a name that a repository may have."""
    made = peers_directory / uuid.uuid4().hex[:12]
    made.mkdir(mode=0o700)
    yield made
    clean(made)


@pytest.fixture(scope="session")
def registry(peers_directory: Path) -> Iterator[Registry]:
    """Without users and TLS. Tests use repositories of their own; who stops it starts it again."""
    with Registry(peers_directory / "registry") as running:
        yield running


@pytest.fixture
def guarded(directory: Path) -> Iterator[Registry]:
    """One that knows ``USER`` alone."""
    with Registry(directory / "guarded", users=dict([USER])) as running:
        yield running


@pytest.fixture(scope="session")
def pause(registry: Registry, peers_directory: Path) -> str:
    """Reference of the pause image."""
    return registry.push("pause:1", pause_image(peers_directory / "pause"))


@pytest.fixture(scope="session")
def busybox(peers_directory: Path) -> Image:
    return busybox_image(peers_directory / "busybox")


@pytest.fixture(params=VERSIONS)
def containerd(request: pytest.FixtureRequest, directory: Path, pause: str) -> Iterator[Containerd]:
    """Each version in turn, with overlayfs, empty."""
    with Containerd(directory / "node", request.param, sandbox_image=pause) as running:
        yield running


@pytest.fixture
async def cri(containerd: Containerd) -> AsyncIterator[Cri]:
    async with Cri(containerd.address) as client:
        yield client


@pytest.fixture
async def cluster(directory: Path) -> AsyncIterator[Cluster]:
    async with make_cluster(directory) as made:
        yield made


@pytest.fixture(scope="session")
def field_registry(peers_directory: Path, registry: Registry) -> Registry:
    """With the images of ``tests.peers.sides``."""
    push_images(peers_directory / "field-images", registry)
    return registry


@pytest.fixture(scope="session", params=SIDES, ids=["-".join(variant) for variant in SIDES])
def both(
    request: pytest.FixtureRequest, peers_directory: Path, field_registry: Registry, pause: str
) -> Iterator[Sides]:
    """Ours beside overlayfs, in each mode and version. All tests share them and leave them as they were."""
    place = peers_directory / f"field-{uuid.uuid4().hex[:8]}"
    try:
        with sides(place, request.param, pause, field_registry) as running:
            yield running
    finally:
        clean(place)
