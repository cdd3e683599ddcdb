"""What Helm does before it deletes the release: no pod that waits for a pinned cache is left waiting.

The chart alone has it. First the bindings of the gate go: a hook object of the same name takes the place of each, which
is bound to no namespace, and which Helm deletes in the end; so no account of ours has a right to delete policies. Then
a Job lets all pods go that are held.
"""

from __future__ import annotations

from tools.install.pins import NAMESPACES_POLICY, PODS_POLICY, binding
from tools.install.pods import TMP_MOUNT, container, labels, logs, placed
from tools.install.rbac import CONTROLLER
from tools.install.template import Document, Each, Node
from tools.install.values import GATED, NAMESPACE, PODS, PULL_SECRET, value

HOOK = "helm.sh/hook"
"""Annotation of what belongs to no installation."""
_NONE: dict[str, Node] = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "DoesNotExist"}]}
_SECONDS = 240
"""Shorter than Helm waits for a hook (300)."""


def release() -> list[Document]:
    unbound = [Document(binding(name, _NONE, _before_deletion(-1)), GATED) for name in (PODS_POLICY, NAMESPACES_POLICY)]
    return [*unbound, Document(_job(), PODS)]


def _before_deletion(weight: int) -> dict[str, Node]:
    """Smaller weights come first."""
    return {
        HOOK: "pre-delete",
        f"{HOOK}-weight": str(weight),
        f"{HOOK}-delete-policy": "before-hook-creation,hook-succeeded",
    }


def _job() -> dict[str, Node]:
    pod: dict[str, Node] = {
        "serviceAccountName": CONTROLLER,
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "imagePullSecrets": Each("imagePullSecrets", {"name": PULL_SECRET}),
        "securityContext": value("controller.podSecurityContext"),
        **placed("controller"),
        "containers": [
            container(
                "release",
                ["controller", "--release"],
                "controller",
                resources={"requests": {"cpu": "10m", "memory": "64Mi"}},
                env=[*logs(), value("controller.extraEnv")],
                securityContext=value("controller.securityContext"),
                volumeMounts=[TMP_MOUNT],
            )
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "imagecache-release",
            "namespace": NAMESPACE,
            "labels": labels("release"),
            "annotations": _before_deletion(0),
        },
        "spec": {
            "backoffLimit": 3,
            "activeDeadlineSeconds": _SECONDS,
            "template": {"metadata": {"labels": labels("release")}, "spec": pod},
        },
    }
