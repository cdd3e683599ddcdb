"""The cluster itself is real and whole: pods, logs, exec, Services, identities, reboots, nodes that come and go."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

from testkit.cluster.accounts import create_account, identity
from testkit.cluster.cluster import Cluster
from testkit.cluster.node import NodeSpec
from testkit.cluster.pods import PodSpec, messages, run_pods, service, wait_ready
from testkit.cluster.programs import kubernetes
from testkit.peers.processes import wait_until

pytestmark = pytest.mark.peers
NODES = ("node-1", "node-2", "node-3")
MakePod = Callable[..., PodSpec]
SERVE = ("sh", "-c", "mkdir /www && hostname >/www/name && exec httpd -f -p 8080 -h /www")


def get(address: str) -> list[str]:
    """busybox's wget asks the C library for names, and there is none in the image."""
    return ["sh", "-c", f"printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 8080 | tail -n 1"]


def test_nodes_are_ready_with_the_versions_that_were_asked_for(cluster: Cluster) -> None:
    assert cluster.ready_nodes() == set(NODES)
    listed = json.loads(cluster.kubectl("get", "nodes", "--output=json"))["items"]
    info = [item["status"]["nodeInfo"] for item in listed]
    assert {node["kubeletVersion"] for node in info} == {"v1.37.2"}
    versions = [node["containerRuntimeVersion"] for node in info]
    assert re.fullmatch(r"containerd://1\.[67]\.\d+", versions[0].partition("~")[0])
    assert versions[1:] == ["containerd://2.4.2", "containerd://2.4.2"]


def test_a_pod_runs_on_each_node_with_logs_and_exec(cluster: Cluster, pod: MakePod) -> None:
    command = ("sh", "-c", "echo hello from $HOSTNAME; exec sleep 1000")
    pods = [pod(node=node, command=command) for node in NODES]
    run_pods(cluster, *pods)
    for one in pods:
        assert cluster.kubectl("logs", one.name) == f"hello from {one.name}\n"
        assert cluster.kubectl("exec", one.name, "--", "sh", "-c", "hostname") == f"{one.name}\n"


def test_the_scheduler_places_pods(cluster: Cluster, pod: MakePod) -> None:
    one = pod()
    run_pods(cluster, one)
    assert cluster.kubectl("get", "pod", one.name, "--output=jsonpath={.spec.nodeName}") in NODES
    assert any(message.startswith("Successfully assigned") for message in messages(cluster, one))


def test_services_and_pods_are_reached_from_every_node(cluster: Cluster, pod: MakePod) -> None:
    server = pod(node=NODES[0], command=SERVE)
    clients = [pod(node=node) for node in NODES]
    run_pods(cluster, server, *clients)
    cluster.apply(service(server.name, 8080))
    try:
        address = cluster.kubectl("get", "service", server.name, "--output=jsonpath={.spec.clusterIP}")

        def answered() -> bool:  # kube-proxy of each node takes its moment
            asked = [cluster.try_kubectl("exec", client.name, "--", *get(address)) for client in clients]
            return all(done.stdout == f"{server.name}\n" for done in asked)

        assert wait_until(answered, seconds=20)
        for node in cluster.nodes:  # also from the nodes themselves, where host services are
            assert node.run("busybox", *get(address)) == f"{server.name}\n"
        proxied = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/default/services/{server.name}:8080/proxy/name")
        assert proxied == f"{server.name}\n"
    finally:
        cluster.kubectl("delete", "service", server.name)


def test_the_api_is_reached_by_its_service_address(cluster: Cluster) -> None:
    address = cluster.kubectl("get", "service", "kubernetes", "--output=jsonpath={.spec.clusterIP}")
    for node in cluster.nodes:
        flags = [f"--kubeconfig={cluster.kubeconfig}", f"--server=https://{address}"]
        assert node.run(kubernetes("kubectl"), *flags, "get", "--raw=/readyz") == "ok"


# identities


@pytest.fixture
def account(cluster: Cluster) -> Iterator[str]:
    create_account(cluster, "visitor", "visitors")
    yield "visitor"
    cluster.kubectl("delete", "namespace", "visitors", "--wait=false")


def review(cluster: Cluster, token: str, audience: str) -> dict[str, object]:
    """What the API server says of a token, as the served store asks it."""
    document = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }
    answer = cluster.kubectl("create", "--filename=-", "--output=json", stdin=json.dumps(document))
    status: dict[str, object] = json.loads(answer)["status"]
    return status


def test_tokens_are_those_that_kubelet_would_project(cluster: Cluster, account: str) -> None:
    made = identity(cluster, account, "visitors", node=cluster.node(NODES[1]))
    status = review(cluster, made.store_token.read_text(), "imagecache")
    assert status["authenticated"] is True
    user = status["user"]
    assert isinstance(user, dict)
    assert user["username"] == "system:serviceaccount:visitors:visitor"
    assert user["extra"]["authentication.kubernetes.io/node-name"] == [NODES[1]]
    token = (made.kubeconfig.parent / "token").read_text()
    assert review(cluster, token, "imagecache").get("authenticated") is not True
    who = cluster.kubectl(f"--kubeconfig={made.kubeconfig}", "auth", "whoami", "--output=json")
    assert json.loads(who)["status"]["userInfo"]["username"] == "system:serviceaccount:visitors:visitor"


# from here on, things go down


def test_the_api_server_may_restart(cluster: Cluster, pod: MakePod) -> None:
    cluster.control.apiserver.kill()
    assert cluster.try_kubectl("get", "nodes").returncode != 0
    cluster.control.apiserver.start()
    run_pods(cluster, *(pod(node=node) for node in NODES))


@pytest.mark.parametrize("name", NODES)
def test_pods_come_back_after_a_power_cut(cluster: Cluster, pod: MakePod, name: str) -> None:
    one = pod(node=name)
    run_pods(cluster, one)
    node = cluster.node(name)
    node.stop()
    assert not list(node.directory.glob("run/*")), "what was in memory is gone"
    node.start()
    cluster.wait_ready(node)

    def restarted() -> bool:
        count = "--output=jsonpath={.status.containerStatuses[0].restartCount}"
        return cluster.kubectl("get", "pod", one.name, count) not in {"", "0"}

    assert wait_until(restarted, seconds=60, every=0.2)
    wait_ready(cluster, one)
    assert cluster.kubectl("exec", one.name, "--", "sh", "-c", "hostname") == f"{one.name}\n"


def test_a_node_joins_and_leaves(cluster: Cluster, pod: MakePod) -> None:
    node = cluster.add_node(NodeSpec("2.4", labels={"tier": "extra"}))
    assert cluster.kubectl("get", "nodes", "--selector=tier=extra", "--output=name") == f"node/{node.name}\n"
    run_pods(cluster, pod(node=node.name))
    cluster.remove_node(node)
    assert cluster.ready_nodes() == set(NODES)
    assert node not in cluster.nodes
