"""``./dev demo --kubernetes``: the ImageCache resource on a real cluster, as its user sees it.

etcd, kube-apiserver, controller-manager, scheduler and two nodes (containerd 1.6 and 2.4), each with our agent. The
seven commands with their real output; then the registry is switched off and a Deployment starts from the cache on both
nodes; then pods that find their cache by themselves (``demo/pods.py``). Everything is gone afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from demo.pods import tell_pods
from demo.shown import say, show
from testkit.cluster.cluster import Cluster, kubectl_command
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec, delete_pods, messages
from testkit.peers.cri import Cri
from testkit.peers.registry import Registry
from testkit.peers.workspace import workspace
from testkit.real_images import python_image

NAME = "imagecache-sample"
PODS = 4
PROGRAM = ["python3", "-c", "import time; time.sleep(3600)"]


def watch_until_ready(system: Installed) -> None:
    """What ``-w`` prints until the cache is Ready."""
    say("$ kubectl get imagecache -w")
    words, env = kubectl_command(system.cluster.directory, "get", "imagecache", "-w")
    watching = subprocess.Popen(words, env={**os.environ, **env})
    try:
        system.wait_ready(NAME)
    finally:
        watching.terminate()
        watching.wait()


def pod_starts(cluster: Cluster, image: str) -> list[float]:
    """Seconds from created to Running, one pod on each node."""
    taken = []
    for node in cluster.nodes:
        pod = PodSpec(f"once-{node.name}", image, PROGRAM, node=node.name)
        start = time.perf_counter()
        cluster.apply(pod.document())
        cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Running", f"pod/{pod.name}", "--timeout=120s")
        taken.append(time.perf_counter() - start)
        delete_pods(cluster, pod)
    return taken


async def forget(cluster: Cluster, image: str) -> None:
    for node in cluster.nodes:
        async with Cri(node.containerd.address) as cri:
            await cri.remove_image(image)


def deployment(image: str) -> dict[str, object]:
    labels = {"app": "app"}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }
    pod = {
        "containers": [{"name": "app", "image": image, "command": PROGRAM}],
        "topologySpreadConstraints": [spread],
        "terminationGracePeriodSeconds": 0,
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": PODS, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"}, "spec": spec}


def deploy(cluster: Cluster, image: str) -> float:
    """Seconds until all pods of the Deployment run."""
    start = time.perf_counter()
    cluster.apply(deployment(image))
    cluster.kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    return time.perf_counter() - start


def kubelet_says(cluster: Cluster) -> list[str]:
    """What the events of the Deployment's pods say of the image, each once."""
    pods = json.loads(cluster.kubectl("get", "pods", "--selector=app=app", "--output=json"))["items"]
    told = [messages(cluster, PodSpec(pod["metadata"]["name"], "")) for pod in pods]
    return sorted({line for lines in told for line in lines if "image" in line.lower() and "Pull" not in line[:4]})


def tell(system: Installed, registry: Registry, reference: str) -> None:
    cluster = system.cluster
    say("Before the image is cached, a pod on each node pulls it:")
    uncached = pod_starts(cluster, reference)
    sys.stdout.writelines(
        f"  {node.name}, created to Running: {seconds:.2f} s\n"
        for node, seconds in zip(cluster.nodes, uncached, strict=True)
    )
    asyncio.run(forget(cluster, reference))

    show(cluster, "get crd/imagecaches.eci.alibabacloud.com")
    manifest = cluster.directory / "imagecache.yaml"
    plain = {"k8s.aliyun.com/plain-http-registry": registry.address}
    document = system.manifest(NAME, [reference], plain, imageCacheSize=25, retentionDays=7)
    manifest.write_text(json.dumps(document, indent=2))
    start = time.perf_counter()
    show(cluster, f"create -f {manifest}")
    watch_until_ready(system)
    everywhere = time.perf_counter() - start
    show(cluster, "get imagecache -o wide")
    show(cluster, f"get imagecache/{NAME} -o yaml")
    show(cluster, "get all")
    show(cluster, f"describe imagecache/{NAME}")
    show(cluster, f"wait --for=condition=Ready imagecache/{NAME}")

    registry.clear_requests()
    registry.stop()
    say(f"The registry is switched off. A Deployment of {PODS} pods over both nodes:")
    cached = deploy(cluster, reference)
    show(cluster, "get pods -o wide")
    say("kubelet says:")
    sys.stdout.writelines(f"  {line}\n" for line in kubelet_says(cluster))

    show(cluster, f"delete imagecache/{NAME}")
    say("The pods did not notice:")
    show(cluster, "get pods")
    cluster.kubectl("delete", "deployment", "app")
    report(uncached, cached, everywhere)


def report(uncached: Sequence[float], cached: float, everywhere: float) -> None:
    say("Side by side:")
    rows = {
        "a pod that pulls the image, created to Running": sum(uncached) / len(uncached),
        "kubectl create to Ready, on both nodes": everywhere,
        f"{PODS} pods from the cache, registry off, created to available": cached,
    }
    sys.stdout.writelines(f"  {text:<60}{seconds:>8.2f} s\n" for text, seconds in rows.items())


def main() -> None:
    with workspace() as directory, Installed(directory / "cluster") as system:
        image = python_image()
        registry = Registry(directory / "team", host=system.cluster.address)  # the cluster's own has the pause image
        with registry:
            system.cluster.trust(registry)
            reference = registry.push("team/app:1.4", image)
            say("A private registry with a real image (Debian, Python, numpy, pandas):")
            sys.stdout.write(f"  {reference}  {image.size / 1e6:.0f} MB compressed, {len(image.layers)} layers\n")
            tell(system, registry, reference)
            tell_pods(system, registry)


if __name__ == "__main__":
    main()
