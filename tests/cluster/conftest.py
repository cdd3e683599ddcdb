"""One cluster for the run: a node for each way in which our agent serves layers. Started when the first test asks.

Tests have names and images of their own and leave the cluster as they found it: every node Ready, every agent running,
the registry up. Those that take something down are last in their module.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.cluster.agent import AgentHost
from testkit.cluster.cluster import Cluster
from testkit.cluster.node import NodeSpec
from testkit.cluster.pods import PodSpec, delete_pods
from testkit.images import busybox_image
from testkit.peers.processes import mounts_below, processes_of
from testkit.peers.registry import Registry
from testkit.peers.workspace import workspace

NODES = ("node-1", "node-2", "node-3")
"""containerd 1.6 (or 1.7) in proxy mode, 2.4 in proxy mode, 2.4 in native mode."""


@pytest.fixture(scope="session")
def cluster_directory() -> Iterator[Path]:
    with workspace() as directory:
        yield directory
        assert not processes_of(directory), "processes left behind"
        assert not mounts_below(directory), "mounts left behind"


@pytest.fixture(scope="session")
def agents() -> dict[str, AgentHost]:
    """By node."""
    return dict(zip(NODES, [AgentHost("proxy"), AgentHost("proxy"), AgentHost("native")], strict=True))


@pytest.fixture(scope="session")
def cluster(cluster_directory: Path, agents: dict[str, AgentHost]) -> Iterator[Cluster]:
    versions = zip(("system", "2.4", "2.4"), agents.values(), strict=True)
    specs = [NodeSpec(version, services=[agent]) for version, agent in versions]  # type: ignore[arg-type]
    with Cluster(cluster_directory / "cluster", specs) as running:
        for agent in agents.values():  # what they build is from a registry that nobody verifies
            agent.settings["IMAGECACHE_INSECURE_REGISTRIES"] = running.registries
        yield running


@pytest.fixture(scope="session")
def busybox(cluster: Cluster, cluster_directory: Path) -> str:
    """Reference of an image that every node can pull."""
    return cluster.registry.push("busybox:1", busybox_image(cluster_directory / "busybox"))


@pytest.fixture
def pod(cluster: Cluster, busybox: str) -> Iterator[Callable[..., PodSpec]]:
    """Makes specs of pods, busybox unless said otherwise, that are gone afterwards."""
    made: list[PodSpec] = []

    def make(**changes: object) -> PodSpec:
        spec = PodSpec(**{"name": f"pod-{uuid.uuid4().hex[:8]}", "image": busybox, **changes})  # type: ignore[arg-type]
        made.append(spec)
        return spec

    yield make
    delete_pods(cluster, *made)


@pytest.fixture
def registry_off(cluster: Cluster) -> Iterator[Registry]:
    """For tests that stop the registry: it is started again."""
    yield cluster.registry
    cluster.registry.stop()
    cluster.registry.start()
