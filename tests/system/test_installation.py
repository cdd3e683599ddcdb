"""What is installed, judged by a real API server: schemas, roles, and the policy that keeps agents to their node."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagecache.errors import KubernetesError
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import kubeconfig
from imagecache.kube.resources import NODE_IMAGE_CACHES, NODES, Resource
from testkit.cluster.accounts import NAMESPACE, create_account, identity
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


OVERLAY = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: elsewhere
namePrefix: prod-
resources: [{base}]
"""


@pytest.mark.parametrize("mode", MODES)
def test_the_api_server_takes_an_overlay(cluster: Cluster, mode: str, tmp_path: Path) -> None:
    base = os.path.relpath(CONFIG / mode, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(OVERLAY.format(base=base))
    cluster.kubectl("create", "namespace", "elsewhere")
    try:
        words = ["apply", "--dry-run=server", "--validate=strict", "--kustomize", str(tmp_path)]
        done = cluster.kubectl(*words)
        bindings = [
            item
            for item in json.loads(cluster.kubectl(*words, "--output=json"))["items"]
            if item["kind"].endswith("AdmissionPolicyBinding")
        ]
    finally:
        cluster.kubectl("delete", "namespace", "elsewhere")

    assert "daemonset.apps/prod-imagecache-agent" in done
    assert len(bindings) == sum(
        str(item["kind"]).endswith("AdmissionPolicyBinding") for item in objects({"mode": mode})
    )
    for binding in bindings:
        assert "namespace" not in binding["metadata"]
        assert binding["spec"]["policyName"] == binding["metadata"]["name"]
        assert binding["metadata"]["name"].startswith("prod-imagecache-")


@pytest.mark.parametrize(
    "values",
    [
        {"store": {"sharedHostPath": "/mnt/imagecache"}, "mode": "native", "containerd": {"configure": False}},
        {"store": {"volume": {"accessMode": "ReadWriteMany", "storageClassName": "nfs"}}, "taint": {"enabled": True}},
        {
            "pullSecretNames": ["registry"],
            "imagePullSecrets": [{"name": "own"}, "other"],
            "networkPolicy": {"enabled": False},
        },
        {
            "controller": {
                "hosts": {"configMap": "registries"},
                "caBundle": {"configMap": "trust"},
                "priorityClassName": "system-cluster-critical",
                "podLabels": {"team": "a"},
                "extraEnv": [{"name": "A", "value": "1"}],
                "extraVolumes": [{"name": "more", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            },
            "agent": {"podAnnotations": {"a": "b"}, "securityContext": {"privileged": True}},
        },
        {"pods": {"refuse": True, "autoCreate": True, "autoCaches": 0, "events": False}},
    ],
    ids=["shared-directory", "two-controllers", "named-secrets", "more-in-the-pods", "pods"],
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


async def test_an_agent_s_account_may_have_any_name(cluster: Cluster) -> None:
    """kustomize changes names and namespaces; the policy knows agents by what they may do."""
    own, other = cluster.nodes[:2]
    account = "system:serviceaccount:elsewhere:prod-agent"
    create_account(cluster, "prod-agent", "elsewhere")
    bind(cluster, "prod-agents", AGENT, "elsewhere:prod-agent")
    assert await may_soon(cluster, account, "create", "nodeimagecaches")
    patch: Object = {"status": {"mode": "proxy"}}
    access = kubeconfig(identity(cluster, "prod-agent", "elsewhere", node=own).kubeconfig)
    try:
        async with KubeClient(access) as kube:
            with pytest.raises(KubernetesError, match="an agent writes about its own node only"):
                await kube.patch(NODE_IMAGE_CACHES, other.name, patch, subresource="status")
            await kube.patch(NODE_IMAGE_CACHES, own.name, patch, subresource="status")
            bind(cluster, "prod-administrators", "cluster-admin", "elsewhere:prod-agent")
            assert await may_soon(cluster, account, "delete", "nodes")
            await kube.patch(NODE_IMAGE_CACHES, other.name, patch, subresource="status")
    finally:
        cluster.kubectl("delete", "clusterrolebinding", "--ignore-not-found", "prod-agents", "prod-administrators")
        cluster.kubectl("delete", "namespace", "elsewhere")


async def may_soon(cluster: Cluster, user: str, verb: str, what: str) -> bool:
    """The API server reads its own roles with a delay."""
    return await asyncio.to_thread(wait_until, lambda: can(cluster, user, verb, what), seconds=30, every=0.2)


def bind(cluster: Cluster, name: str, role: str, account: str) -> None:
    cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={role}", f"--serviceaccount={account}")


def test_people_may_what_their_role_in_the_whole_cluster_says(cluster: Cluster) -> None:
    people = {"view": "reader", "edit": "editor", "admin": "owner"}
    for role, user in people.items():
        cluster.kubectl("create", "clusterrolebinding", f"test-{user}", f"--clusterrole={role}", f"--user={user}")
    cluster.kubectl("create", "rolebinding", "test-local", "--clusterrole=edit", "--user=local", "--namespace=default")
    try:
        # the controller that aggregates roles takes a moment
        assert wait_until(lambda: can(cluster, "owner", "delete", "nodeimagecaches"), seconds=30, every=0.2)
        assert can(cluster, "reader", "list", "imagecaches")
        assert can(cluster, "reader", "list", "nodeimagecaches")
        assert not can(cluster, "reader", "create", "imagecaches")
        assert can(cluster, "editor", "create", "imagecaches")
        assert not can(cluster, "editor", "delete", "nodeimagecaches")
        assert not can(cluster, "owner", "create", "nodeimagecaches")
        assert not can(cluster, "local", "list", "imagecaches")

        everything = cluster.try_kubectl("get", "all", "--as=local", "--namespace=default")
        assert (everything.returncode, "imagecache" in everything.stderr) == (0, False), everything.stderr
    finally:
        bindings = [f"test-{user}" for user in people.values()]
        cluster.kubectl("delete", "clusterrolebinding", *bindings)
        cluster.kubectl("delete", "rolebinding", "test-local", "--namespace=default")


def can(cluster: Cluster, user: str, verb: str, what: str) -> bool:
    """In the whole cluster: asked for a namespace, a role that is bound there alone would answer for it."""
    asked = ("auth", "can-i", verb, what, f"--as={user}", "--all-namespaces")
    return cluster.try_kubectl(*asked).stdout.startswith("yes")


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
