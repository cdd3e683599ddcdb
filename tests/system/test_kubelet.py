"""What kubelet does with pods of cached images: debuggers, image volumes, limits of storage, restarts of 100 pods."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from testkit.cluster.installed import Installed
from testkit.cluster.node import Node
from testkit.cluster.pods import PodSpec, messages, run_pods, wait_ready
from testkit.images import MOST_LAYERS
from testkit.peers.processes import wait_until

from .conftest import Site

MB = 1_000_000
PODS = 100


def document(pod: PodSpec, container: Mapping[str, object], **spec: object) -> dict[str, object]:
    """The pod with more fields of its container, and of its spec."""
    made = pod.document()
    fields = made["spec"]
    assert isinstance(fields, dict)
    fields.update(spec)
    fields["containers"][0].update(container)
    return made


def cached(site: Site, name: str, *sizes: int, layers: int = 0) -> str:
    """An image of random bytes that all nodes have: /srv/0, /srv/1 and so on; of so many layers at least."""
    image = site.registry.push(f"kubelet/{name}:{layers}", site.image(*sizes, layers=layers))
    site.create(f"{name}-{layers}", image)
    site.system.wait_ready(f"{name}-{layers}")
    return image


def digest(system: Installed, pod: PodSpec, path: str = "/srv/0") -> str:
    return system.cluster.kubectl("exec", pod.name, "--container=main", "--", "sha256sum", path).split()[0]


def sums(system: Installed, pod: str, *, at_least: int) -> set[str]:
    """Digests of /srv/0, below roots of other processes, that a debugger has printed, once there are so many."""

    def printed() -> list[str]:
        lines = system.cluster.try_kubectl("logs", pod, "--container=debugger").stdout.splitlines()
        return [line.split()[0] for line in lines if line.endswith("/root/srv/0")]

    assert wait_until(lambda: len(printed()) >= at_least, seconds=60, every=0.5), printed()
    return set(printed())


# debuggers


def test_an_ephemeral_container_reads_the_root_of_its_target(site: Site, system: Installed) -> None:
    image = cached(site, "debug", 2 * MB, layers=MOST_LAYERS)
    pods = [PodSpec(f"debug-{node.name}", image, node=node.name) for node in system.cluster.nodes]
    flags = (f"--image={image}", "--target=main", "--container=debugger", "--profile=general")
    with site.registry_off():
        run_pods(system.cluster, *pods)
        for pod in pods:
            system.cluster.kubectl("debug", pod.name, *flags, "--", "sha256sum", "/proc/1/root/srv/0")
            assert sums(system, pod.name, at_least=1) == {digest(system, pod)}


def test_a_copy_of_a_pod_that_shares_its_process_namespace(site: Site, system: Installed) -> None:
    """Process 1 is the pause container's there; those of the other container are beside it."""
    image = cached(site, "copied", 2 * MB, layers=MOST_LAYERS)
    flags = ("--share-processes", "--same-node", f"--image={image}", "--container=debugger")
    script = "sha256sum /proc/1/root/bin/busybox && sha256sum /proc/[0-9]*/root/srv/0; sleep 3600"
    for node in system.cluster.nodes:
        pod, copy = PodSpec(f"copied-{node.name}", image, node=node.name), f"copy-{node.name}"
        run_pods(system.cluster, pod)
        system.cluster.kubectl("debug", pod.name, f"--copy-to={copy}", *flags, "--", "sh", "-c", script)

        # two processes are the debugger's own, and at least one the other container's
        assert sums(system, copy, at_least=3) == {digest(system, pod)}


# image volumes


def test_an_image_volume_with_a_sub_path(site: Site, system: Installed) -> None:
    """On containerd 2.4; 1.6 has none."""
    image = cached(site, "volume", 2 * MB, MB, layers=MOST_LAYERS)
    for node in system.cluster.nodes[1:]:
        pod = PodSpec(f"volume-{node.name}", image, node=node.name)
        source = {"name": "data", "image": {"reference": image, "pullPolicy": "IfNotPresent"}}
        mounts = [
            {"name": "data", "mountPath": "/whole"},
            {"name": "data", "mountPath": "/part", "subPath": "srv"},
        ]
        with site.registry_off():
            system.cluster.apply(document(pod, {"volumeMounts": mounts}, volumes=[source]))
            wait_ready(system.cluster, pod)

        for number in range(2):
            paths = [f"{folder}/{number}" for folder in ("/srv", "/whole/srv", "/part")]
            assert len({digest(system, pod, path) for path in paths}) == 1
        refused = system.cluster.try_kubectl("exec", pod.name, "--", "touch", "/part/new")
        assert "Read-only file system" in refused.stderr


# storage


@pytest.mark.timeout(600)
def test_a_pod_that_writes_more_than_its_limit_is_evicted(site: Site, system: Installed) -> None:
    """Layers count for nobody: the other pod's image is larger than its limit."""
    agent = system.add_node(kubelet={"localStorageCapacityIsolation": True})
    try:
        image = cached(site, "limit", 30 * MB, layers=MOST_LAYERS)
        limit = {"resources": {"limits": {"ephemeral-storage": "20Mi"}}}
        pods = [PodSpec(name, image, node=agent.node.name, restart_policy="Never") for name in ("modest", "greedy")]
        with site.registry_off():
            system.cluster.apply(*(document(pod, limit) for pod in pods))
            for pod in pods:
                wait_ready(system.cluster, pod)
        modest, greedy = pods
        writes = "dd if=/dev/zero of=/srv/new bs=1M count=60"
        system.cluster.try_kubectl("exec", greedy.name, "--", "sh", "-c", writes)  # evicted while it writes, or after

        def phase(pod: PodSpec) -> str:
            return system.cluster.kubectl("get", "pod", pod.name, "--output=jsonpath={.status.phase}")

        # not by the phase alone: it ends well when it is told to, and kubelet 1.37 then calls it Succeeded
        assert wait_until(lambda: phase(greedy) != "Running", seconds=120, every=1)
        assert any("ephemeral local storage usage exceeds" in said for said in messages(system.cluster, greedy))
        assert phase(modest) == "Running"
    finally:
        system.cluster.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")
        system.remove_node(agent)


# restarts


def containers(system: Installed, prefix: str) -> dict[str, str]:
    """Of every pod that is ready: its container's id."""
    listed = json.loads(system.cluster.kubectl("get", "pods", "--output=json"))["items"]
    found = {}
    for item in listed:
        for status in item["status"].get("containerStatuses", []):
            if item["metadata"]["name"].startswith(prefix) and status["ready"]:
                found[item["metadata"]["name"]] = status["containerID"]
    return found


def follows(system: Installed, node: Node, name: str, image: str) -> None:
    """A pod that starts now: kubelet has looked at all others by then."""
    run_pods(system.cluster, PodSpec(name, image, node=node.name), seconds=120)


@pytest.mark.timeout(1500)
def test_100_pods_stay_through_restarts_and_come_back_after_a_reboot(site: Site, system: Installed) -> None:
    images = [cached(site, "many", MB, layers=layers) for layers in (0, MOST_LAYERS)]
    node = system.cluster.nodes[1]
    pods = [PodSpec(f"many-{number}", images[number % 2], node=node.name) for number in range(PODS)]
    with site.registry_off():
        run_pods(system.cluster, *pods, seconds=400)
        before = containers(system, "many-")
        assert len(before) == PODS

        node.kubelet.kill()
        node.kubelet.start()
        follows(system, node, "after-kubelet", images[0])
        assert containers(system, "many-") == before

        node.containerd.restart()
        follows(system, node, "after-containerd", images[1])
        assert containers(system, "many-") == before

        node.restart()
        system.cluster.wait_ready(node)

        def back() -> bool:
            now = containers(system, "many-")
            return len(now) == PODS and not set(now.values()) & set(before.values())

        assert wait_until(back, seconds=600, every=2)
