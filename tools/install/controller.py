"""The controller: its Deployment, its volume, and the Service by which agents reach the store."""

from __future__ import annotations

from tools.install.pods import (
    LEASES_MOUNT,
    METRICS_PORT,
    POD_NAMESPACE,
    STORE,
    STORE_MOUNT,
    STORE_PORT,
    TMP_MOUNT,
    container,
    from_field,
    host_path,
    in_namespace,
    labels,
    logs,
    placed,
    pod,
    probe,
    setting,
    variable,
)
from tools.install.rbac import AGENT, CONTROLLER
from tools.install.template import Document, Expression, Node, When, equals, given
from tools.install.values import (
    LEASES,
    NAMESPACE,
    OWN_LEASES,
    PODS,
    SERVED,
    SHARED_VOLUME,
    TLS_SECRET,
    decimal_as_text,
    flag_as_text,
    listed,
    number_as_text,
    value,
)

_PROXY_SECRET = given("controller.proxySecret")
_HOSTS = given("controller.hosts.configMap")
_AUTHORITIES = given("controller.caBundle.configMap")
_HOSTS_MOUNT, _AUTHORITIES_MOUNT = "/etc/imagecache/hosts", "/etc/imagecache/registry-ca"
_TLS_MOUNT = "/etc/imagecache/tls"
_AUTHORITIES_FILE = "ca.crt"


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
        "terminationGracePeriodSeconds": 30,
        # a registry's name is looked up as it is, before any search domain: the author of an image cache may have made
        # a Service that ends like it
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "topologySpreadConstraints": When(
            given("controller.topologySpreadConstraints"),
            value("controller.topologySpreadConstraints"),
            [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": labels("controller")},
                }
            ],
        ),
        **placed("controller"),
        "containers": [
            container(
                "controller",
                ["controller"],
                "controller",
                env=[*settings(), value("controller.extraEnv")],
                envFrom=When(_PROXY_SECRET, [{"secretRef": {"name": value("controller.proxySecret")}}]),
                ports=[
                    {"name": "metrics", "containerPort": METRICS_PORT},
                    When(SERVED, {"name": "store", "containerPort": STORE_PORT}),
                ],
                livenessProbe=probe("/livez", "metrics"),
                readinessProbe=When(SERVED, probe("/readyz", "store", scheme="HTTPS"), probe("/readyz", "metrics")),
                securityContext=value("controller.securityContext"),
                volumeMounts=[
                    {"name": "store", "mountPath": STORE_MOUNT},
                    When(OWN_LEASES, {"name": "leases", "mountPath": LEASES_MOUNT}),
                    When(SERVED, {"name": "tls", "mountPath": _TLS_MOUNT, "readOnly": True}),
                    When(_HOSTS, {"name": "hosts", "mountPath": _HOSTS_MOUNT, "readOnly": True}),
                    When(_AUTHORITIES, {"name": "registry-ca", "mountPath": _AUTHORITIES_MOUNT, "readOnly": True}),
                    TMP_MOUNT,
                    value("controller.extraVolumeMounts"),
                ],
            )
        ],
        "volumes": [
            When(SERVED, _claimed(), host_path("store", value("store.sharedHostPath"), "Directory")),
            When(OWN_LEASES, host_path("leases", value("store.sharedLeasesPath"), "Directory")),
            When(SERVED, {"name": "tls", "secret": {"secretName": TLS_SECRET}}),
            When(_HOSTS, {"name": "hosts", "configMap": {"name": value("controller.hosts.configMap")}}),
            When(_AUTHORITIES, {"name": "registry-ca", "configMap": _authorities()}),
            {"name": "tmp", "emptyDir": {}},
            value("controller.extraVolumes"),
        ],
    }


def _authorities() -> dict[str, Node]:
    key = value("controller.caBundle.key")
    return {"name": value("controller.caBundle.configMap"), "items": [{"key": key, "path": _AUTHORITIES_FILE}]}


def _claimed() -> dict[str, Node]:
    claim = Expression(
        f'$.Values.store.volume.existingClaim | default "{STORE}"',
        lambda context: context.at("store.volume.existingClaim") or STORE,
    )
    return {"name": "store", "persistentVolumeClaim": {"claimName": claim}}


def settings() -> list[Node]:
    """Variables of the program that the chart sets."""
    return [
        in_namespace(),
        variable("AGENT_ACCOUNT", AGENT),
        setting("store", STORE_MOUNT),
        When(~SERVED, setting("leases", When(OWN_LEASES, LEASES_MOUNT, f"{STORE_MOUNT}/{LEASES}"))),
        setting("controller_builds", number_as_text("controller.builds")),
        setting("jobs", number_as_text("controller.jobs")),
        setting("store_reserve", decimal_as_text("controller.storeReserve")),
        setting("max_caches", number_as_text("controller.maxCaches")),
        setting("max_store_size", number_as_text("controller.maxStoreSizeGiB")),
        setting("tag_check_interval", number_as_text("controller.tagCheckIntervalSeconds")),
        setting("labelled_secrets", When(equals("authors.pullSecrets", "labelled"), "true", "false")),
        setting("insecure_registries", listed("insecureRegistries", "auto")),
        setting("registry_retries", number_as_text("controller.registry.retries")),
        setting("registry_connect_timeout", number_as_text("controller.registry.connectTimeoutSeconds")),
        setting("registry_read_timeout", number_as_text("controller.registry.readTimeoutSeconds")),
        setting("pods", When(PODS, "true", "false")),
        setting("pods_auto_create", flag_as_text("pods.autoCreate")),
        setting("auto_caches", number_as_text("pods.autoCaches")),
        setting("auto_caches_per_namespace", number_as_text("pods.autoCachesPerNamespace")),
        When(_HOSTS, setting("hosts", _HOSTS_MOUNT)),
        When(_AUTHORITIES, setting("registry_ca", f"{_AUTHORITIES_MOUNT}/{_AUTHORITIES_FILE}")),
        setting("metrics_address", f":{METRICS_PORT}"),
        from_field("lease_namespace", "metadata.namespace"),
        When(SERVED, setting("serve_address", f":{STORE_PORT}")),
        When(SERVED, setting("serve_agents", f"system:serviceaccount:{POD_NAMESPACE}:$(AGENT_ACCOUNT)")),
        When(SERVED, setting("serve_certificate", f"{_TLS_MOUNT}/tls.crt")),
        When(SERVED, setting("serve_compressed_size", number_as_text("store.compressedSizeGiB"))),
        When(SERVED, setting("serve_key", f"{_TLS_MOUNT}/tls.key")),
        *logs(),
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
