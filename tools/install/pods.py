"""What the pods of controller and agents have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.install.rbac import LABELS
from tools.install.template import Expression, Node
from tools.install.values import IMAGE, value

METRICS_PORT, STORE_PORT = 9464, 8443
STORE = "imagecache-store"
"""Service and volume."""
STORE_MOUNT = "/var/lib/imagecache"
TMP_MOUNT: dict[str, Node] = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - an emptyDir of the pod
USER = 65532
"""Of the image: nobody that a distribution has given a meaning."""
UNPRIVILEGED: dict[str, Node] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def labels(component: str) -> dict[str, Node]:
    return {**LABELS, "app.kubernetes.io/component": component}


def container(name: str, args: Sequence[Node], resources: str, **more: Node) -> dict[str, Node]:
    """One that runs ``imagecache`` with these arguments; ``resources`` is a path of the values."""
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": value("image.pullPolicy"),
        "args": list(args),
        "resources": value(resources),
        **more,
    }


def setting(name: str, text: str | Expression) -> dict[str, Node]:
    return {"name": f"IMAGECACHE_{name.upper()}", "value": text}


def from_field(name: str, path: str) -> dict[str, Node]:
    return {"name": f"IMAGECACHE_{name.upper()}", "valueFrom": {"fieldRef": {"fieldPath": path}}}


def probe(path: str, port: str | int, **more: Node) -> dict[str, Node]:
    """``more``: fields of httpGet."""
    return {"httpGet": {"path": path, "port": port, **more}, "periodSeconds": 10, "timeoutSeconds": 5}


def pod(component: str, account: str, spec: Mapping[str, Node]) -> dict[str, Node]:
    """A pod template, with what every pod of ours has."""
    return {
        "metadata": {"labels": labels(component)},
        "spec": {
            "serviceAccountName": account,
            "enableServiceLinks": False,  # its variables would begin as our settings do
            "imagePullSecrets": value("imagePullSecrets"),
            **spec,
        },
    }


def placed(path: str) -> dict[str, Node]:
    """Where pods may run, from the values below ``path``."""
    return {"nodeSelector": value(f"{path}.nodeSelector"), "tolerations": value(f"{path}.tolerations")}


def host_path(name: str, path: str | Expression, kind: str = "") -> dict[str, Node]:
    return {"name": name, "hostPath": {"path": path, **({"type": kind} if kind else {})}}
