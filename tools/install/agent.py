"""The agents: one DaemonSet, different in each mode.

In proxy mode its pod holds no agent: a first container installs the host service, and ends; the one that stays is
nobody, hands over credentials, and asks the host to take the service away when the DaemonSet goes. In native mode the
agent is in the pod, and an installer that stays beside it configures containerd. In prepull mode nothing on the node is
changed.
"""

from __future__ import annotations

from imagecache.agent.daemonset import MODE_LABEL
from imagecache.containerd.api import SNAPSHOTTERS
from imagecache.host.pod_directory import KEEPER, POD
from imagecache.kube.connection import SERVICE_ACCOUNT
from imagecache.kube.reviewer import AUDIENCE
from tools.install.pods import (
    LEASES_MOUNT,
    METRICS_PORT,
    POD_NAMESPACE,
    STORE,
    STORE_PORT,
    TMP_MOUNT,
    UNPRIVILEGED,
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
from tools.install.rbac import AGENT, LABELS
from tools.install.template import Document, Node, When, given, join
from tools.install.values import (
    NAMESPACE,
    NATIVE,
    NODE_LEASES,
    NODE_STORE,
    POD_EVENTS,
    PREPULL,
    PROXY,
    SERVED,
    TLS_SECRET,
    decimal_as_text,
    directory_of,
    listed,
    number_as_text,
    value,
)

HOST = "/host"
INSTALLER_PORT = 9465
ACCOUNT = "account"
"""Volume: the service account as kubelet mounts it."""
TOKENS, TRUST = "/var/run/secrets/imagecache", "/etc/imagecache/store-ca"
_TOKEN_SECONDS = 3600
_ROOT: dict[str, Node] = {**UNPRIVILEGED, "runAsUser": 0, "runAsGroup": 0}
_AGENT_SECURITY: dict[str, Node] = {
    **_ROOT,
    # root for containerd's socket; three for workers, which become nobody; the others for files of any owner, and for
    # those that it makes in a directory of the controller's
    "capabilities": {
        "drop": ["ALL"],
        "add": ["SETUID", "SETGID", "KILL", "DAC_OVERRIDE", When(~SERVED, "CHOWN"), When(~SERVED, "FOWNER")],
    },
}
_INSTALLER_SECURITY: dict[str, Node] = {"privileged": True, "runAsUser": 0, "readOnlyRootFilesystem": True}
_KEEPER_SECURITY: dict[str, Node] = {
    **UNPRIVILEGED,
    "runAsUser": KEEPER,
    "runAsGroup": KEEPER,
    "runAsNonRoot": True,
    "seLinuxOptions": {"type": "spc_t"},  # a container's own type may not write in /run; without SELinux it is nothing
}
_SECURITY = given("agent.securityContext")
_QUOTA = given("agent.priorityClassName") | given("controller.priorityClassName")
_CONFIGURES = NATIVE & given("containerd.configure")
_INSTALLS = PROXY | _CONFIGURES


def agent() -> list[Document]:
    return [
        _quota(),
        Document(
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": {
                    "name": AGENT,
                    "namespace": NAMESPACE,
                    "labels": {**labels("agent"), MODE_LABEL: value("mode")},
                },
                "spec": {
                    "selector": {"matchLabels": labels("agent")},
                    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
                    "template": pod("agent", AGENT, _pod_spec()),
                },
            }
        ),
    ]


def _pod_spec() -> dict[str, Node]:
    return {
        # systemd answers only processes that it can see: sd-bus asks for the id of its peer (bus_check_peercred)
        "hostPID": When(_INSTALLS, then=True),
        "automountServiceAccountToken": When(PROXY, then=False),  # it has a volume of its own
        "hostNetwork": When(PROXY, then=True),  # where the host service's probes answer
        "dnsPolicy": When(PROXY, "ClusterFirstWithHostNet"),
        "terminationGracePeriodSeconds": 120,
        **placed("agent"),
        "initContainers": When(PROXY, [_installer()]),
        "containers": [When(PROXY, _keeper()), When(_CONFIGURES, _configurer()), When(~PROXY, _agent())],
        "volumes": [
            When(_INSTALLS, host_path("host", "/", "Directory")),
            # made before the installer runs, which gives it to the keeper
            When(PROXY, host_path("pod", str(POD), "DirectoryOrCreate")),
            When(PROXY, {"name": ACCOUNT, "projected": {"sources": [_account_token(), *_cluster()]}}),
            When(~PROXY, host_path("runtime", directory_of("containerd.socket"), "Directory")),
            When(NATIVE, host_path("containerd", value("containerd.root"), "Directory")),
            When(NATIVE | (PREPULL & ~SERVED), host_path("store", NODE_STORE, "DirectoryOrCreate")),
            When(~PROXY & ~SERVED, host_path("leases", NODE_LEASES, "DirectoryOrCreate")),
            When(PREPULL & SERVED, {"name": "store", "emptyDir": {}}),
            When(SERVED, {"name": "store-token", "projected": {"sources": [_store_token()]}}),
            When(SERVED, {"name": "store-trust", "secret": {"secretName": TLS_SECRET, "items": [_TRUSTED]}}),
            {"name": "tmp", "emptyDir": {}},
            value("agent.extraVolumes"),
        ],
    }


_TRUSTED: dict[str, Node] = {"key": "ca.crt", "path": "ca.crt"}


def _store_token() -> dict[str, Node]:
    token: Node = {"audience": AUDIENCE, "expirationSeconds": _TOKEN_SECONDS, "path": "token"}
    return {"serviceAccountToken": token}


def _account_token() -> dict[str, Node]:
    return {"serviceAccountToken": {"expirationSeconds": _TOKEN_SECONDS, "path": "token"}}


def _cluster() -> list[Node]:
    """What kubelet mounts beside a service account's token (kubernetes.io "Managing Service Accounts")."""
    namespace: dict[str, Node] = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    return [
        {"configMap": {"name": "kube-root-ca.crt", "items": [_TRUSTED]}},
        {"downwardAPI": {"items": [namespace]}},
    ]


def _installer() -> dict[str, Node]:
    """Of proxy mode: it ends when the host service runs. What the keeper hands over later it brings first."""
    return container(
        "installer",
        ["host", "install", "--unattended", *_how()],
        "agent",
        env=[*_host_settings(), setting("metrics_address", value("metrics.hostAddress")), value("agent.extraEnv")],
        terminationMessagePolicy="FallbackToLogsOnError",  # why a node has no agent is in its pod's status
        securityContext=_installer_security(),
        volumeMounts=[
            *_host_mounts(),
            _account_mount(),
            *_credentials(),
            TMP_MOUNT,
            value("agent.extraVolumeMounts"),
        ],
    )


def _keeper() -> dict[str, Node]:
    """Of proxy mode: it stays, and is ready when the host service is. Of the host it has one directory."""
    return container(
        "keeper",
        ["keeper", f"--health=127.0.0.1:{INSTALLER_PORT}"],
        "agent",
        env=[*settings(), setting("metrics_address", value("metrics.hostAddress")), value("agent.extraEnv")],
        startupProbe={**probe("/livez", INSTALLER_PORT, host="127.0.0.1"), "failureThreshold": 6},
        livenessProbe=probe("/livez", INSTALLER_PORT, host="127.0.0.1"),
        readinessProbe=probe("/readyz", INSTALLER_PORT, host="127.0.0.1"),
        securityContext=_KEEPER_SECURITY,
        volumeMounts=[
            {"name": "pod", "mountPath": str(POD)},
            _account_mount(),
            *_credentials(),
            TMP_MOUNT,
            value("agent.extraVolumeMounts"),
        ],
    )


def _configurer() -> dict[str, Node]:
    """Of native mode: it stays, since nobody else repairs containerd's configuration."""
    return container(
        "installer",
        ["host", "keep", f"--health=:{INSTALLER_PORT}", *_how()],
        "agent",
        env=[*_host_settings(), value("agent.extraEnv")],
        startupProbe={**probe("/livez", INSTALLER_PORT), "failureThreshold": 60},  # containerd may take minutes
        livenessProbe=probe("/livez", INSTALLER_PORT),
        readinessProbe=probe("/readyz", INSTALLER_PORT),
        securityContext=_installer_security(),
        volumeMounts=[*_host_mounts(), TMP_MOUNT, value("agent.extraVolumeMounts")],
    )


def _account_mount() -> dict[str, Node]:
    return {"name": ACCOUNT, "mountPath": str(SERVICE_ACCOUNT), "readOnly": True}


def _how() -> list[Node]:
    return [
        f"--root={HOST}",
        When(given("containerd.unit"), join("--containerd-unit=", value("containerd.unit"))),
        When(~given("containerd.configure"), "--leave-containerd"),
    ]


def _host_settings() -> list[Node]:
    return [*settings(), setting("host_directory", value("agent.hostDirectory"))]


def _host_mounts() -> list[Node]:
    return [{"name": "host", "mountPath": HOST, "mountPropagation": "HostToContainer"}]


def _installer_security() -> When:
    return When(_SECURITY, value("agent.securityContext"), _INSTALLER_SECURITY)


def _agent() -> dict[str, Node]:
    return container(
        "agent",
        ["agent"],
        "agent",
        env=[*settings(), setting("metrics_address", f":{METRICS_PORT}"), value("agent.extraEnv")],
        ports=[{"name": "metrics", "containerPort": METRICS_PORT}],
        livenessProbe=probe("/livez", "metrics"),
        readinessProbe=probe("/readyz", "metrics"),
        securityContext=When(_SECURITY, value("agent.securityContext"), _AGENT_SECURITY),
        volumeMounts=[
            {"name": "runtime", "mountPath": directory_of("containerd.socket")},
            When(NATIVE, {"name": "containerd", "mountPath": value("containerd.root"), "readOnly": True}),
            {"name": "store", "mountPath": NODE_STORE, "readOnly": When(~SERVED, then=True)},
            When(~SERVED, {"name": "leases", "mountPath": LEASES_MOUNT}),
            *_credentials(),
            TMP_MOUNT,
            value("agent.extraVolumeMounts"),
        ],
    )


def _credentials() -> list[Node]:
    return [
        When(SERVED, {"name": "store-token", "mountPath": TOKENS, "readOnly": True}),
        When(SERVED, {"name": "store-trust", "mountPath": TRUST, "readOnly": True}),
    ]


def settings() -> list[Node]:
    """Variables of the program that the chart sets."""
    return [
        in_namespace(),
        variable("AGENT_DAEMONSET", AGENT),
        When(SERVED, variable("STORE_SERVICE", STORE)),
        setting("mode", value("mode")),
        setting("inode_numbers", value("inodeNumbers")),
        setting("mount_from", value("mountFrom")),
        from_field("node_name", "spec.nodeName"),
        setting("daemonset", f"{POD_NAMESPACE}/$(AGENT_DAEMONSET)"),
        setting("address", value("containerd.socket")),
        setting("containerd_config", value("containerd.config")),
        setting("snapshotter", value("containerd.snapshotter")),
        setting("agent_root", join(value("containerd.root"), f"/{SNAPSHOTTERS}.", value("containerd.snapshotter"))),
        setting("also_unpack", listed("containerd.alsoUnpack", "off")),
        setting("repair", value("containerd.repair")),
        setting("store", NODE_STORE),
        When(~SERVED, setting("leases", When(PROXY, NODE_LEASES, LEASES_MOUNT))),
        When(SERVED, setting("store_url", f"https://$(STORE_SERVICE).{POD_NAMESPACE}.svc:{STORE_PORT}")),
        When(SERVED, setting("store_token", f"{TOKENS}/token")),
        When(SERVED, setting("store_ca", f"{TRUST}/ca.crt")),
        When(SERVED, setting("store_compression", value("store.compression"))),
        setting("reserve", decimal_as_text("agent.reserve")),
        setting("trim_delay", number_as_text("agent.trimDelaySeconds")),
        setting("allow_private_names", listed("agent.allowPrivateNames", "")),
        # whoever names our own image on nodes has root there
        setting("reserved_names", join(value("image.repository"), ",", listed("agent.reservedNames", ""))),
        setting("taint_timeout", number_as_text("taint.timeoutSeconds")),
        setting("pod_events", When(POD_EVENTS, "true", "false")),
        *logs(),
    ]


def _quota() -> Document:
    """Without it GKE and others allow pods of the critical classes in kube-system alone (LimitedResources)."""
    classes: list[Node] = [
        When(given(path), value(path)) for path in ("agent.priorityClassName", "controller.priorityClassName")
    ]
    return Document(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "imagecache", "namespace": NAMESPACE, "labels": LABELS},
            "spec": {
                "hard": {"pods": number_as_text("resourceQuota.pods")},
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": classes}]
                },
            },
        },
        given("resourceQuota.enabled") & _QUOTA,
    )
