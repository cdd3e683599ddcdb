"""What is installed, judged by a real API server: schemas, roles, and the policy that keeps agents to their node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.errors import KubernetesError
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import kubeconfig
from imagecache.kube.resources import NODE_IMAGE_CACHES, NODES, Resource
from testkit.cluster.accounts import NAMESPACE, identity
from testkit.cluster.cluster import Cluster
from testkit.cluster.installed import Installed
from testkit.cluster.node import Node
from testkit.peers.processes import wait_until
from tools.install.rbac import AGENT, CONTROLLER
from tools.install.render import MODES, objects

CONFIG = Path(__file__).resolve().parents[2] / "config"


@pytest.fixture
def cluster(system: Installed) -> Cluster:
    return system.cluster


async def patch_as_agent(
    cluster: Cluster, node: Node | None, resource: Resource, name: str, patch: Object, *, subresource: str = ""
) -> None:
    """With the token of the agent on ``node``, or with one that names no node. Raises KubernetesError."""
    access = kubeconfig(identity(cluster, AGENT, node=node).kubeconfig)
    async with KubeClient(access) as kube:
        await kube.patch(resource, name, patch, subresource=subresource)


def may(cluster: Cluster, account: str, verb: str, what: str, *, namespace: str = "default") -> bool:
    user = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
    done = cluster.try_kubectl("auth", "can-i", verb, what, user, f"--namespace={namespace}")
    return done.stdout.startswith("yes")


@pytest.mark.parametrize("mode", MODES)
def test_the_api_server_takes_each_base(cluster: Cluster, mode: str) -> None:
    done = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "--kustomize", str(CONFIG / mode))

    assert "daemonset.apps/imagecache-agent" in done
    assert "deployment.apps/imagecache-controller" in done


@pytest.mark.parametrize(
    "values",
    [
        {"store": {"sharedHostPath": "/mnt/imagecache"}, "mode": "native", "containerd": {"configure": False}},
        {"store": {"volume": {"accessMode": "ReadWriteMany", "storageClassName": "nfs"}}, "taint": {"enabled": True}},
        {"pullSecretNames": ["registry"], "imagePullSecrets": [{"name": "own"}], "networkPolicy": False},
    ],
    ids=["shared-directory", "two-controllers", "named-secrets"],
)
def test_the_api_server_takes_other_values_too(cluster: Cluster, values: dict[str, object]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": objects(json.loads(json.dumps(values)))}

    cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename=-", stdin=json.dumps(listed))


def test_secrets_are_got_by_the_controller_where_it_was_told(cluster: Cluster) -> None:
    assert may(cluster, CONTROLLER, "get", "secrets/any")
    assert not may(cluster, CONTROLLER, "list", "secrets")
    assert not may(cluster, CONTROLLER, "get", "secrets/any", namespace="kube-system")
    assert not may(cluster, AGENT, "get", "secrets/any", namespace=NAMESPACE)
    assert not may(cluster, AGENT, "create", "tokenreviews")
    assert may(cluster, CONTROLLER, "create", "tokenreviews")


async def test_an_agent_writes_about_its_own_node_only(cluster: Cluster) -> None:
    own, other = cluster.nodes[:2]
    patch: Object = {"status": {"mode": "proxy"}}  # as it is

    await patch_as_agent(cluster, own, NODE_IMAGE_CACHES, own.name, patch, subresource="status")
    for node, target in ((own, other), (None, own)):
        with pytest.raises(KubernetesError, match="an agent writes about its own node only"):
            await patch_as_agent(cluster, node, NODE_IMAGE_CACHES, target.name, patch, subresource="status")
    async with KubeClient(kubeconfig(identity(cluster, AGENT, node=own).kubeconfig)) as kube:
        with pytest.raises(KubernetesError, match="an agent writes about its own node only"):
            await kube.delete(NODE_IMAGE_CACHES, other.name)


@pytest.fixture
def tainted(cluster: Cluster) -> Iterator[Node]:
    """A node with two taints, and agents that may take one away."""
    rules = [item for item in objects({"taint": {"enabled": True}}) if "taint" in str(item["metadata"])]
    cluster.apply(*rules)
    node = cluster.nodes[0]
    cluster.kubectl("taint", "node", node.name, "imagecache.dev/not-ready=:PreferNoSchedule", "other=:PreferNoSchedule")
    yield node
    cluster.try_kubectl("taint", "node", node.name, "imagecache.dev/not-ready-")
    cluster.kubectl("taint", "node", node.name, "other-")
    cluster.kubectl("delete", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": rules}))


async def test_of_its_node_it_changes_the_start_up_taint_only(cluster: Cluster, tainted: Node) -> None:
    def taints() -> str:
        return cluster.kubectl("get", "node", tainted.name, "--output=jsonpath={.spec.taints[*].key}")

    assert await asyncio.to_thread(wait_until, lambda: taints() == "other", seconds=60, every=0.2), taints()
    other: Object = {"key": "other", "effect": "PreferNoSchedule"}
    refused: list[tuple[Object, str]] = [
        ({"spec": {"taints": []}}, "removes no taint but"),
        ({"spec": {"taints": [other, {"key": "more", "effect": "NoSchedule"}]}}, "adds no taint"),
        ({"metadata": {"labels": {"pool": "stolen"}}}, "nothing but taints"),
        ({"metadata": {"annotations": {"a": "b"}}}, "nothing but taints"),
        ({"spec": {"unschedulable": True}}, "nothing but taints"),
    ]
    for patch, reason in refused:
        with pytest.raises(KubernetesError, match=reason):
            await patch_as_agent(cluster, tainted, NODES, tainted.name, patch)
    with pytest.raises(KubernetesError, match="its own node only"):
        await patch_as_agent(cluster, cluster.nodes[1], NODES, tainted.name, {"spec": {"taints": [other]}})
