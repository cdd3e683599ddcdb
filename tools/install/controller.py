"""The controller: its Deployment, its volume, and the Service by which agents reach the store."""

from __future__ import annotations

from tools.install.pods import (
    METRICS_PORT,
    STORE,
    STORE_MOUNT,
    STORE_PORT,
    TMP_MOUNT,
    UNPRIVILEGED,
    USER,
    container,
    from_field,
    host_path,
    labels,
    placed,
    pod,
    probe,
    setting,
)
from tools.install.rbac import AGENT, CONTROLLER
from tools.install.template import Document, Expression, Node, When, given, join
from tools.install.values import NAMESPACE, SERVED, SHARED_VOLUME, TLS_SECRET, number_as_text, value

_PROXY_SECRET = given("controller.proxySecret")


def controller() -> list[Document]:
    return [_service(), _claim(), _deployment(), _disruption_budget()]


def _metadata(name: str) -> dict[str, Node]:
    return {"name": name, "namespace": NAMESPACE, "labels": labels("controller")}


def _service() -> Document:
    return Document(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata(STORE),
            "spec": {
                "selector": labels("controller"),
                "ports": [{"name": "store", "port": STORE_PORT, "targetPort": "store"}],
            },
        },
        SERVED,
    )


def _claim() -> Document:
    return Document(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": _metadata(STORE),
            "spec": {
                "accessModes": [value("store.volume.accessMode")],
                "storageClassName": When(
                    given("store.volume.storageClassName"), value("store.volume.storageClassName")
                ),
                "resources": {"requests": {"storage": value("store.volume.size")}},
            },
        },
        SERVED & ~given("store.volume.existingClaim"),
    )


def _deployment() -> Document:
    return Document(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": _metadata(CONTROLLER),
            "spec": {
                # one leads, the others serve the store and wait
                "replicas": When(SHARED_VOLUME, 2, 1),
                "strategy": {"type": When(SHARED_VOLUME, "RollingUpdate", "Recreate")},
                "selector": {"matchLabels": labels("controller")},
                "template": pod("controller", CONTROLLER, _pod_spec()),
            },
        }
    )


def _pod_spec() -> dict[str, Node]:
    return {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        "terminationGracePeriodSeconds": 30,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels("controller")},
            }
        ],
        **placed("controller"),
        "containers": [
            container(
                "controller",
                ["controller"],
                "controller.resources",
                env=_settings(),
                envFrom=When(_PROXY_SECRET, [{"secretRef": {"name": value("controller.proxySecret")}}]),
                ports=[
                    {"name": "metrics", "containerPort": METRICS_PORT},
                    When(SERVED, {"name": "store", "containerPort": STORE_PORT}),
                ],
                livenessProbe=probe("/livez", "metrics"),
                readinessProbe=When(SERVED, probe("/readyz", "store", scheme="HTTPS"), probe("/readyz", "metrics")),
                securityContext=UNPRIVILEGED,
                volumeMounts=[
                    {"name": "store", "mountPath": STORE_MOUNT},
                    When(SERVED, {"name": "tls", "mountPath": "/etc/imagecache/tls", "readOnly": True}),
                    TMP_MOUNT,
                ],
            )
        ],
        "volumes": [
            When(SERVED, _claimed(), host_path("store", value("store.sharedHostPath"), "Directory")),
            When(SERVED, {"name": "tls", "secret": {"secretName": TLS_SECRET}}),
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _claimed() -> dict[str, Node]:
    claim = Expression(
        f'$.Values.store.volume.existingClaim | default "{STORE}"',
        lambda context: context.at("store.volume.existingClaim") or STORE,
    )
    return {"name": "store", "persistentVolumeClaim": {"claimName": claim}}


def _settings() -> list[Node]:
    return [
        setting("store", STORE_MOUNT),
        setting("controller_builds", number_as_text("controller.builds")),
        setting("metrics_address", f":{METRICS_PORT}"),
        from_field("lease_namespace", "metadata.namespace"),
        When(SERVED, setting("serve_address", f":{STORE_PORT}")),
        When(SERVED, setting("serve_agents", join("system:serviceaccount:", NAMESPACE, f":{AGENT}"))),
    ]


def _disruption_budget() -> Document:
    return Document(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": _metadata(CONTROLLER),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels("controller")}},
        },
        SHARED_VOLUME,
    )
