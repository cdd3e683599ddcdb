"""Who may connect to controller and agents, and where Prometheus finds their metrics."""

from __future__ import annotations

from tools.install.pods import METRICS_PORT, STORE_PORT, labels
from tools.install.rbac import AGENT, CONTROLLER
from tools.install.template import MERGED, Document, Node, When, given
from tools.install.values import NAMESPACE, SERVED, value

_COMPONENTS = {"controller": CONTROLLER, "agent": AGENT}
_INTERVAL = When(given("metrics.serviceMonitor.interval"), value("metrics.serviceMonitor.interval"))


def network() -> list[Document]:
    found = []
    for component in _COMPONENTS:
        found += [_policy(component), _metrics(component), _monitor(component)]
    return found


def _metadata(component: str, suffix: str = "") -> dict[str, Node]:
    name = _COMPONENTS[component] + suffix
    return {"name": name, "namespace": NAMESPACE, "labels": labels(component)}


def _policy(component: str) -> Document:
    """Ports only, because agents that are host services connect from their node's own address, which no selector names.

    Each request to the store needs a token. Pods in the host's network (proxy mode) are not reached by a policy.
    """
    ports: list[Node] = [{"port": METRICS_PORT, "protocol": "TCP"}]
    if component == "controller":
        ports.append(When(SERVED, {"port": STORE_PORT, "protocol": "TCP"}))
    return Document(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": _metadata(component),
            "spec": {
                "podSelector": {"matchLabels": labels(component)},
                "policyTypes": ["Ingress"],
                "ingress": [{"ports": ports}],
            },
        },
        given("networkPolicy.enabled"),
    )


def _metrics(component: str) -> Document:
    return Document(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata(component, "-metrics"),
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": labels(component),
                "ports": [{"name": "metrics", "port": METRICS_PORT, "targetPort": METRICS_PORT}],
            },
        }
    )


def _monitor(component: str) -> Document:
    return Document(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": {
                "name": _COMPONENTS[component],
                "namespace": NAMESPACE,
                "labels": {**labels(component), MERGED: value("metrics.serviceMonitor.labels")},
            },
            "spec": {
                "selector": {"matchLabels": labels(component)},
                "endpoints": [{"port": "metrics", "interval": _INTERVAL}],
            },
        },
        given("metrics.serviceMonitor.enabled"),
    )
