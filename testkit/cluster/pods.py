"""Pods and Services as documents for ``Cluster.apply``, and what a test asks of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from testkit.cluster.cluster import Cluster

SLEEP = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done")
"""Runs until it is told to end, and then ends at once."""


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod of one container. It has no ServiceAccount's token and ends without grace."""

    name: str
    image: str
    command: Sequence[str] = SLEEP
    node: str = ""
    """Past the scheduler; empty: the scheduler's choice."""
    namespace: str = "default"
    pull_policy: str = "IfNotPresent"
    restart_policy: str = "Always"
    pull_secrets: Sequence[str] = ()
    runtime_class: str = ""
    """Empty: the default handler of its node."""
    host_users: bool = True
    """False: the pod has a user namespace."""
    user: int | None = None
    """Whom its command runs as; None: as the image says."""
    image_volume: str = ""
    """An image that is mounted at /volume."""

    def document(self) -> dict[str, object]:
        container: dict[str, object] = {
            "name": "main",
            "image": self.image,
            "command": list(self.command),
            "imagePullPolicy": self.pull_policy,
        }
        spec: dict[str, object] = {
            "containers": [container],
            "restartPolicy": self.restart_policy,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "dnsPolicy": "Default",  # there is no DNS in the cluster
            "imagePullSecrets": [{"name": name} for name in self.pull_secrets],
        }
        if self.node:
            spec["nodeName"] = self.node
        if self.runtime_class:
            spec["runtimeClassName"] = self.runtime_class
        if not self.host_users:
            spec["hostUsers"] = False
        if self.user is not None:
            container["securityContext"] = {"runAsUser": self.user}
        if self.image_volume:
            image = {"reference": self.image_volume, "pullPolicy": self.pull_policy}
            spec["volumes"] = [{"name": "volume", "image": image}]
            container["volumeMounts"] = [{"name": "volume", "mountPath": "/volume"}]
        metadata = {"name": self.name, "namespace": self.namespace, "labels": {"app": self.name}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(name: str, port: int, *, namespace: str = "default") -> dict[str, object]:
    """A Service in front of the pods that are labelled ``app: name``."""
    spec = {"selector": {"app": name}, "ports": [{"port": port, "targetPort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def run_pods(cluster: Cluster, *pods: PodSpec, seconds: float = 60) -> None:
    """Create them and wait until all are Ready. Raises PeerFailed."""
    cluster.apply(*(pod.document() for pod in pods))
    for pod in pods:
        wait_ready(cluster, pod, seconds=seconds)


def wait_ready(cluster: Cluster, pod: PodSpec, *, seconds: float = 60) -> None:
    """Raises PeerFailed."""
    cluster.kubectl(
        "wait", "--for=condition=Ready", f"pod/{pod.name}", f"--namespace={pod.namespace}", f"--timeout={seconds}s"
    )


def delete_pods(cluster: Cluster, *pods: PodSpec) -> None:
    """Returns when they are gone; those that are not there are."""
    for pod in pods:
        cluster.kubectl("delete", "pod", pod.name, f"--namespace={pod.namespace}", "--ignore-not-found")


def messages(cluster: Cluster, pod: PodSpec) -> list[str]:
    """What the Events about it say, oldest first: among them kubelet's about its image."""
    chosen = f"--field-selector=involvedObject.kind=Pod,involvedObject.name={pod.name}"
    listed = cluster.kubectl("get", "events", f"--namespace={pod.namespace}", chosen, "--output=json")
    return [item.get("message", "") for item in json.loads(listed)["items"]]
