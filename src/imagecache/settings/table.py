"""Every setting, declared once: its name, type, unit, default and meaning.

A setting is a field of ``Settings``. Its flag is ``--name-with-dashes``, its environment variable ``IMAGECACHE_NAME``,
its key in the configuration file ``name``; ``docs/settings.md`` is made from here. Precedence: flag, environment,
configuration file, default (see ``settings.load``). It must not read anything itself.
"""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

CONFIG_FILE = Path("/etc/imagecache/config.toml")
CONFIG_ENVIRONMENT = "IMAGECACHE_CONFIG"
DEBUG_ENVIRONMENT = "IMAGECACHE_DEBUG"


class Mode(enum.Enum):
    """How layers reach containerd (architecture, "Node")."""

    AUTO = "auto"
    PROXY = "proxy"
    NATIVE = "native"
    PREPULL = "prepull"
    """The agent in a cluster only."""


class LogFormat(enum.Enum):
    AUTO = "auto"
    """``console`` on a terminal, ``json`` otherwise."""
    JSON = "json"
    CONSOLE = "console"


class LogLevel(enum.Enum):
    AUTO = "auto"
    """``info`` for agent and snapshotter, ``warning`` for the commands that people wait for."""
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: what a field of ``Settings`` is called outside and what it means."""

    name: str
    kind: object
    default: object
    unit: str
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        return "IMAGECACHE_" + self.name.upper()


@dataclasses.dataclass(frozen=True, slots=True)
class Meaning:
    """What belongs to a setting besides its type and default."""

    unit: str
    help: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values in force."""

    store: Annotated[
        Path,
        Meaning(
            "directory",
            "Where layer images, bundles and ImageCache objects live. One filesystem: ext4, xfs or btrfs.",
        ),
    ] = Path("/var/lib/imagecache")
    address: Annotated[
        Path,
        Meaning("unix socket", "containerd's socket, which attach and the agent talk to."),
    ] = Path("/run/containerd/containerd.sock")
    namespace: Annotated[
        str,
        Meaning("name", "containerd namespace that images are recorded in (CRI uses k8s.io)."),
    ] = "k8s.io"
    mode: Annotated[
        Mode,
        Meaning(
            "auto | proxy | native | prepull",
            "Who serves layers: our snapshotter (proxy), containerd's own (native, containerd >= 2.4), or nobody: "
            "the agent of a cluster asks the runtime to pull (prepull).",
        ),
    ] = Mode.AUTO
    snapshotter: Annotated[
        str,
        Meaning("name", "What our proxy snapshotter is called in containerd's configuration."),
    ] = "imagecache"
    agent_socket: Annotated[
        Path,
        Meaning("unix socket", "Where the proxy snapshotter listens."),
    ] = Path("/run/imagecache/snapshotter.sock")
    agent_root: Annotated[
        Path,
        Meaning("directory", "State and writable layers of the proxy snapshotter: containers write here."),
    ] = Path("/var/lib/containerd/io.containerd.snapshotter.v1.imagecache")
    containerd_config: Annotated[
        Path,
        Meaning("file", "containerd's main configuration file; our drop-in goes beside it."),
    ] = Path("/etc/containerd/config.toml")
    secrets: Annotated[
        Path,
        Meaning("directory", "Secret manifests (YAML or JSON) that imagePullSecrets names as namespace:name."),
    ] = Path("/etc/imagecache/secrets")
    docker_config: Annotated[
        str,
        Meaning(
            "file",
            "Docker's config.json: credentials and credential helpers. Empty: $DOCKER_CONFIG or ~/.docker/config.json.",
        ),
    ] = ""
    hosts: Annotated[
        Path,
        Meaning("directory", "containerd's registry hosts directory (hosts.toml mirrors)."),
    ] = Path("/etc/containerd/certs.d")
    registry_retries: Annotated[
        int,
        Meaning("count", "Further tries after a registry request that time may heal."),
    ] = 5
    registry_connect_timeout: Annotated[
        float,
        Meaning("seconds", "To connect to a registry, TLS included."),
    ] = 10.0
    registry_read_timeout: Annotated[
        float,
        Meaning("seconds", "Without a byte from a registry until the request is tried again."),
    ] = 60.0
    jobs: Annotated[
        int,
        Meaning("count", "Layers downloaded and converted at once. 0: one per processor."),
    ] = 0
    trim_delay: Annotated[
        float,
        Meaning(
            "seconds", "From a container's start until the second copy of its layers leaves the page cache. 0: never."
        ),
    ] = 10.0
    metrics_address: Annotated[
        str,
        Meaning("host:port", "Where the agent serves /metrics, /livez and /readyz. Empty: nowhere."),
    ] = "127.0.0.1:9464"
    allow_private_names: Annotated[
        tuple[str, ...],
        Meaning(
            "containerd namespaces, comma-separated",
            "Where private images are recorded too: every pod there may then use them, no questions asked.",
        ),
    ] = ()
    kubeconfig: Annotated[
        str,
        Meaning(
            "file",
            "How to reach the Kubernetes API. Empty: the Pod's service account, else $KUBECONFIG or ~/.kube/config.",
        ),
    ] = ""
    node_name: Annotated[
        str,
        Meaning("name", "Of this machine's Node: the agent looks after the caches of that cluster. Empty: no cluster."),
    ] = ""
    daemonset: Annotated[
        str,
        Meaning(
            "namespace/name",
            "Of the DaemonSet whose Pod this is: when it has left the Node at the end, so does what we did there. "
            "Empty: no Pod.",
        ),
    ] = ""
    store_url: Annotated[
        str,
        Meaning(
            "https://host:port",
            "Where the controller serves its store; the agent fetches into its own. "
            "Empty: store is a directory that both share, and nothing is fetched.",
        ),
    ] = ""
    store_name: Annotated[
        str,
        Meaning("name", "In the served store's certificate, when store_url has an address. Empty: the URL's host."),
    ] = ""
    store_token: Annotated[
        Path,
        Meaning("file", "Projected ServiceAccount token with the audience imagecache; read anew for each request."),
    ] = Path("/var/run/secrets/imagecache/token")
    store_ca: Annotated[
        Path,
        Meaning("file", "PEM bundle of the authorities that may sign the served store's certificate."),
    ] = Path("/etc/imagecache/store-ca/ca.crt")
    taint_timeout: Annotated[
        float,
        Meaning(
            "seconds",
            "After the agent's start, until the Node's taint imagecache.dev/not-ready goes even though caches are "
            "missing. 0: it stays until they are there.",
        ),
    ] = 300.0
    reserve: Annotated[
        float,
        Meaning(
            "share, 0 to 1",
            "Of the disk that fetches leave free: kubelet evicts pods when less is (imagefs.available).",
        ),
    ] = 0.15
    lease_namespace: Annotated[
        str,
        Meaning("name", "Namespace of the Lease by which one controller leads. Empty: the Pod's own."),
    ] = ""
    controller_builds: Annotated[
        int,
        Meaning("count", "Image caches that the controller builds at the same time; each uses jobs processes."),
    ] = 1
    serve_address: Annotated[
        str,
        Meaning("host:port", "Where the controller serves the store to agents, over HTTPS. Empty: nowhere."),
    ] = ""
    serve_certificate: Annotated[
        Path,
        Meaning("file", "PEM certificate chain of the served store; taken up again when it changes."),
    ] = Path("/etc/imagecache/tls/tls.crt")
    serve_key: Annotated[
        Path,
        Meaning("file", "PEM private key of it."),
    ] = Path("/etc/imagecache/tls/tls.key")
    serve_agents: Annotated[
        tuple[str, ...],
        Meaning("user names, comma-separated", "Service accounts that may read the served store."),
    ] = ("system:serviceaccount:imagecache-system:imagecache-agent",)
    log_format: Annotated[
        LogFormat,
        Meaning("auto | json | console", "Form of log lines on stderr; auto is console on a terminal, else json."),
    ] = LogFormat.AUTO
    log_level: Annotated[
        LogLevel,
        Meaning(
            "auto | debug | info | warning | error",
            "Least severity that is logged; auto is info for agent and snapshotter, else warning.",
        ),
    ] = LogLevel.AUTO


def _table() -> dict[str, Setting]:
    hints = get_type_hints(Settings, include_extras=True)
    table = {}
    for field in dataclasses.fields(Settings):
        kind, meaning = get_args(hints[field.name])
        table[field.name] = Setting(field.name, kind, field.default, meaning.unit, meaning.help)
    return table


SETTINGS: dict[str, Setting] = _table()
