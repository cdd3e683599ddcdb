"""Pods and Services as documents for ``Cluster.apply``, and what a test asks of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from testkit.cluster.cluster import Cluster

SLEEP = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done")
"""Runs until it is told to end, and then ends at once."""


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod, of one container unless it says more. It has no ServiceAccount's token and ends without grace."""

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
    more_images: Sequence[str] = ()
    """Of further containers, which run the same command."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    """Beside ``app: name``."""
    gates: Sequence[str] = ()
    """Scheduling gates of its manifest."""
    node_selector: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        container, *others = (
            self._container(f"more-{number}" if number else "main", image)
            for number, image in enumerate([self.image, *self.more_images])
        )
        spec: dict[str, object] = {
            "containers": [container, *others],
            "restartPolicy": self.restart_policy,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "dnsPolicy": "Default",  # there is no DNS in the cluster
            "imagePullSecrets": [{"name": name} for name in self.pull_secrets],
        }
        if self.node:
            spec["nodeName"] = self.node
        if self.gates:
            spec["schedulingGates"] = [{"name": name} for name in self.gates]
        if self.node_selector:
            spec["nodeSelector"] = dict(self.node_selector)
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
        metadata: dict[str, object] = {
            "name": self.name,
            "namespace": self.namespace,
            "labels": {"app": self.name, **self.labels},
            "annotations": dict(self.annotations),
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def _container(self, name: str, image: str) -> dict[str, object]:
        return {
            "name": name,
            "image": image,
            "command": list(self.command),
            "imagePullPolicy": self.pull_policy,
        }


def workload(kind: str, pod: PodSpec, **spec: object) -> dict[str, object]:
    """A Deployment, StatefulSet, DaemonSet or Job of this name whose pods are as ``pod``; ``spec`` is its own."""
    metadata = {"labels": {"app": pod.name, **pod.labels}, "annotations": dict(pod.annotations)}
    template: dict[str, object] = {"metadata": metadata, "spec": pod.document()["spec"]}
    selector: dict[str, object] = {} if kind == "Job" else {"selector": {"matchLabels": {"app": pod.name}}}
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": {"app": pod.name}},
        "spec": {**selector, **spec, "template": template},
    }


def service(name: str, port: int, *, namespace: str = "default") -> dict[str, object]:
    """A Service in front of the pods that are labelled ``app: name``."""
    spec = {"selector": {"app": name}, "ports": [{"port": port, "targetPort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def run_pods(cluster: Cluster, *pods: PodSpec, seconds: float = 60) -> None:
    """Create them and wait until all are Ready. Raises PeerFailed."""
    cluster.apply(*(pod.document() for pod in pods))
    wait_ready(cluster, *pods, seconds=seconds)


def wait_ready(cluster: Cluster, *pods: PodSpec, seconds: float = 60) -> None:
    """Raises PeerFailed."""
    for namespace, names in _by_namespace(pods):
        words = ("wait", "--for=condition=Ready", f"--namespace={namespace}", f"--timeout={seconds}s")
        cluster.kubectl(*words, *(f"pod/{name}" for name in names))


def delete_pods(cluster: Cluster, *pods: PodSpec) -> None:
    """Returns when they are gone; those that are not there are."""
    for namespace, names in _by_namespace(pods):
        cluster.kubectl("delete", "pods", *names, f"--namespace={namespace}", "--ignore-not-found")


def _by_namespace(pods: Sequence[PodSpec]) -> list[tuple[str, list[str]]]:
    """A kubectl for each pod would take more from the processors than its wait."""
    return [
        (namespace, [pod.name for pod in pods if pod.namespace == namespace])
        for namespace in {pod.namespace: None for pod in pods}
    ]


def messages(cluster: Cluster, pod: PodSpec) -> list[str]:
    """What the Events about it say, oldest first: among them kubelet's about its image."""
    chosen = f"--field-selector=involvedObject.kind=Pod,involvedObject.name={pod.name}"
    listed = cluster.kubectl("get", "events", f"--namespace={pod.namespace}", chosen, "--output=json")
    return [item.get("message", "") for item in json.loads(listed)["items"]]
