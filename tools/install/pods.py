"""What the pods of controller and agents have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.install.rbac import LABELS
from tools.install.template import MERGED, Each, Expression, Node, When, given
from tools.install.values import IMAGE, PULL_SECRET, value

METRICS_PORT, STORE_PORT = 9464, 8443
STORE = "imagecache-store"
"""Service and volume."""
STORE_MOUNT = "/var/lib/imagecache"
LEASES_MOUNT = "/var/lib/imagecache-leases"
"""Not below the store's: a mountpoint cannot be made in what is mounted read-only."""
TMP_MOUNT: dict[str, Node] = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - an emptyDir of the pod
UNPRIVILEGED: dict[str, Node] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
POD_NAMESPACE = "$(POD_NAMESPACE)"
"""For the value of a variable that comes after ``in_namespace()``: kubelet fills it in, and kustomize need not."""


def labels(component: str) -> dict[str, Node]:
    return {**LABELS, "app.kubernetes.io/component": component}


def container(name: str, args: Sequence[Node], component: str, **more: Node) -> dict[str, Node]:
    """One that runs ``imagecache`` with these arguments and resources."""
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": value("image.pullPolicy"),
        "args": list(args),
        "resources": value(f"{component}.resources"),
        **more,
    }


def setting(name: str, text: str | Expression | When) -> dict[str, Node]:
    return variable(f"IMAGECACHE_{name.upper()}", text)


def variable(name: str, text: str | Expression | When) -> dict[str, Node]:
    """Others name it as ``$(NAME)`` after it."""
    return {"name": name, "value": text}


def from_field(name: str, path: str) -> dict[str, Node]:
    """A setting."""
    return {"name": f"IMAGECACHE_{name.upper()}", "valueFrom": {"fieldRef": {"fieldPath": path}}}


def in_namespace() -> dict[str, Node]:
    return {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}


def logs() -> list[Node]:
    return [setting("log_level", value("logLevel")), setting("log_format", value("logFormat"))]


def probe(path: str, port: str | int, **more: Node) -> dict[str, Node]:
    """``more``: fields of httpGet."""
    return {"httpGet": {"path": path, "port": port, **more}, "periodSeconds": 10, "timeoutSeconds": 5}


def pod(component: str, account: str, spec: Mapping[str, Node]) -> dict[str, Node]:
    """A pod template, with what every pod of ours has."""
    return {
        "metadata": {
            "labels": {**labels(component), MERGED: value(f"{component}.podLabels")},
            "annotations": value(f"{component}.podAnnotations"),
        },
        "spec": {
            "serviceAccountName": account,
            "enableServiceLinks": False,  # its variables would begin as our settings do
            "imagePullSecrets": Each("imagePullSecrets", {"name": PULL_SECRET}),
            "priorityClassName": When(given(f"{component}.priorityClassName"), value(f"{component}.priorityClassName")),
            "securityContext": value(f"{component}.podSecurityContext"),
            **spec,
        },
    }


def placed(component: str) -> dict[str, Node]:
    """Where its pods may run."""
    return {key: value(f"{component}.{key}") for key in ("nodeSelector", "tolerations", "affinity")}


def host_path(name: str, path: str | Expression, kind: str = "") -> dict[str, Node]:
    return {"name": name, "hostPath": {"path": path, **({"type": kind} if kind else {})}}
