"""Every setting, declared once: its name, type, unit, default and meaning.

A setting is a field of ``Settings``. Its flag is ``--name-with-dashes``, its environment variable ``IMAGECACHE_NAME``,
its key in the configuration file ``name``; ``docs/settings.md`` is generated from here. Precedence: flag, environment,
configuration file, default (see ``settings.load``). It must not read anything itself.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

from imagecache.settings.choices import InodeNumbers, LogFormat, LogLevel, Mode, MountFrom, Repair, StoreCompression

CONFIG_FILE = Path("/etc/imagecache/config.toml")
CONFIG_ENVIRONMENT = "IMAGECACHE_CONFIG"
DEBUG_ENVIRONMENT = "IMAGECACHE_DEBUG"


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: the names of a field of ``Settings`` outside of the program, and its meaning."""

    name: str
    kind: object
    default: object
    unit: str
    help: str
    positive: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        return "IMAGECACHE_" + self.name.upper()


@dataclasses.dataclass(frozen=True, slots=True)
class Meaning:
    """The parts of a setting besides its type and default."""

    unit: str
    help: str
    positive: bool = False
    """0 is refused: a time limit of 0 would be none, and a registry that is silent would be waited for without end."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values in force."""

    store: Annotated[
        Path,
        Meaning(
            "directory",
            "Layer images, bundles and ImageCache objects are stored here. One filesystem: ext4, xfs or btrfs.",
        ),
    ] = Path("/var/lib/imagecache")
    address: Annotated[
        Path,
        Meaning("unix socket", "containerd's socket."),
    ] = Path("/run/containerd/containerd.sock")
    namespace: Annotated[
        str,
        Meaning("name", "containerd namespace in which images are recorded (CRI uses k8s.io)."),
    ] = "k8s.io"
    mode: Annotated[
        Mode,
        Meaning(
            "auto | proxy | native | prepull",
            "What serves layers: our snapshotter (proxy), containerd's own (native, containerd >= 2.4), or nothing: "
            "the agent of a cluster has the runtime unpack or pull the images (prepull). auto: what containerd is "
            "configured for.",
        ),
    ] = Mode.AUTO
    snapshotter: Annotated[
        str,
        Meaning("name", "Name of our proxy snapshotter in containerd's configuration."),
    ] = "imagecache"
    agent_socket: Annotated[
        Path,
        Meaning("unix socket", "Socket of the proxy snapshotter."),
    ] = Path("/run/imagecache/snapshotter.sock")
    agent_root: Annotated[
        Path,
        Meaning("directory", "State and writable layers of the proxy snapshotter; containers write here."),
    ] = Path("/var/lib/containerd/io.containerd.snapshotter.v1.imagecache")
    inode_numbers: Annotated[
        InodeNumbers,
        Meaning(
            "stable | short",
            "Inode numbers in containers (proxy, native). stable: as on one filesystem; they need 64 bits. "
            "short: for 32-bit programs without large-file support, whose stat(2) fails with EOVERFLOW otherwise; "
            "then numbers of directories change, and programs that stay on one filesystem find no files.",
        ),
    ] = InodeNumbers.STABLE
    mount_from: Annotated[
        MountFrom,
        Meaning(
            "auto | file | loop",
            "What layer images are mounted from (proxy, and imagecache mount). loop: a loop device with direct I/O, so "
            "that programs can read with O_DIRECT; cold reads take longer. auto: the file, but a loop device where the "
            "kernel needs one: before 6.12, and where a killed process can leave zeros in the page cache (6.12 to "
            "6.12.79, 6.13 to 6.18.20, 6.19 to 6.19.10). file: also there, for a distribution that has upstream "
            "eade54040384.",
        ),
    ] = MountFrom.AUTO
    containerd_config: Annotated[
        Path,
        Meaning(
            "file",
            "containerd's main configuration file; our drop-in is written into the directory that it imports last, "
            "else beside it.",
        ),
    ] = Path("/etc/containerd/config.toml")
    containerd_unit: Annotated[
        str,
        Meaning(
            "unit",
            "containerd's systemd unit, which the host service restarts. Empty: that of the process at its socket, "
            "which is another one where a wrapper starts containerd, or kubelet has moved it to another cgroup.",
        ),
    ] = ""
    host_directory: Annotated[
        Path,
        Meaning(
            "directory",
            "Where the host service has its program on the host, as large as its container image. It must survive a "
            "boot, and programs must be allowed to run from there (no noexec).",
        ),
    ] = Path("/opt/imagecache")
    repair: Annotated[
        Repair,
        Meaning(
            "auto | report",
            "What the host service does when containerd's configuration was written anew without our part: write that "
            "again and restart containerd if it has started without it (auto), or only report it. In both cases it "
            "deletes the records of images that containerd could not start meanwhile, so that they are pulled.",
        ),
    ] = Repair.AUTO
    secrets: Annotated[
        Path,
        Meaning("directory", "Secret manifests (YAML or JSON), which imagePullSecrets names as namespace:name."),
    ] = Path("/etc/imagecache/secrets")
    docker_config: Annotated[
        str,
        Meaning(
            "file",
            "Docker's config.json: credentials and their helpers. Empty: $DOCKER_CONFIG or ~/.docker/config.json.",
        ),
    ] = ""
    hosts: Annotated[
        Path,
        Meaning(
            "directory",
            "containerd's registry configuration (mirrors in hosts.toml). A file in place of a registry's directory, "
            "as a volume of a ConfigMap has it, is its hosts.toml.",
        ),
    ] = Path("/etc/containerd/certs.d")
    registry_ca: Annotated[
        str,
        Meaning(
            "file",
            "PEM certificates of authorities that may sign registries' certificates, beside those of the system. "
            "Empty: the system's alone.",
        ),
    ] = ""
    insecure_registries: Annotated[
        tuple[str, ...],
        Meaning(
            "auto | host[:port] | network, comma-separated",
            "Registries that may be reached over transport without verification (plain HTTP, or a certificate that "
            "nobody verifies), where an ImageCache or hosts.toml asks for it, and that get credentials then: hosts as "
            "in references, or networks (10.0.0.0/8) for those written as an address. Whoever is on the way to them "
            "decides what their images are. auto: this machine itself, but nothing in a cluster.",
        ),
    ] = ("auto",)
    labelled_secrets: Annotated[
        bool,
        Meaning(
            "true | false",
            'Pull secrets of a cluster are used only with the label imagecache.dev/pull-secret: "true".',
        ),
    ] = False
    registry_retries: Annotated[
        int,
        Meaning("count", "Retries of a registry request after an error that may be temporary."),
    ] = 5
    registry_connect_timeout: Annotated[
        float,
        Meaning("seconds", "Limit for connecting to a registry, TLS included.", positive=True),
    ] = 10.0
    registry_read_timeout: Annotated[
        float,
        Meaning("seconds", "A registry request is retried when no byte arrives for this long.", positive=True),
    ] = 60.0
    jobs: Annotated[
        int,
        Meaning(
            "count",
            "Layers downloaded and converted at the same time, each by a process that may take an equal part of three "
            "quarters of the memory. 0: one per processor, as far as each gets 768 MiB.",
        ),
    ] = 0
    store_reserve: Annotated[
        float,
        Meaning(
            "share, 0 to 1",
            "Share of the store's disk that builds leave free; one that needs it waits until there is space again.",
        ),
    ] = 0.02
    trim_delay: Annotated[
        float,
        Meaning(
            "seconds",
            "Time from a container's start until the second copy of its layers leaves the page cache. 0: never.",
        ),
    ] = 10.0
    metrics_address: Annotated[
        str,
        Meaning("host:port", "Address of /metrics, /livez and /readyz. Empty: not served."),
    ] = "127.0.0.1:9464"
    allow_private_names: Annotated[
        tuple[str, ...],
        Meaning(
            "containerd namespaces, comma-separated",
            "Namespaces in which private images are recorded too: every pod there may use them without credentials.",
        ),
    ] = ()
    reserved_names: Annotated[
        tuple[str, ...],
        Meaning(
            "repositories and prefixes, comma-separated",
            "Images that no cache may name in containerd's namespace k8s.io, where every pod would use them: a "
            "repository (registry.example.com/team/app) with all its tags, or what is below a prefix that ends in a "
            "slash (registry.k8s.io/). Their layers are served when a pod pulls them.",
        ),
    ] = ("registry.k8s.io/",)
    also_unpack: Annotated[
        tuple[str, ...],
        Meaning(
            "auto | off | names of snapshotters, comma-separated",
            "Snapshotters that get the images unpacked too, from the layer images, for runtime classes that do not use "
            "ours. auto: those of CRI's runtime handlers. A name that a node does not have is no error there.",
        ),
    ] = ("auto",)
    kubeconfig: Annotated[
        str,
        Meaning(
            "file",
            "Access to the Kubernetes API. Empty: the Pod's service account, else $KUBECONFIG or ~/.kube/config.",
        ),
    ] = ""
    node_name: Annotated[
        str,
        Meaning(
            "name", "Name of this machine's Node: the agent then serves the caches of the cluster. Empty: no cluster."
        ),
    ] = ""
    daemonset: Annotated[
        str,
        Meaning(
            "namespace/name",
            "The DaemonSet of this Pod. When it will start no other Pod on this Node, the Pod cleans up as it ends. "
            "Set by the chart. Empty: not in a Pod.",
        ),
    ] = ""
    store_url: Annotated[
        str,
        Meaning(
            "https://host:port",
            "Address of the controller's served store; the agent fetches from it into its own store. "
            "Empty: both share the directory store, and nothing is fetched.",
        ),
    ] = ""
    store_name: Annotated[
        str,
        Meaning(
            "name", "Name in the served store's certificate, when store_url has an IP address. Empty: the URL's host."
        ),
    ] = ""
    store_token: Annotated[
        Path,
        Meaning("file", "Projected ServiceAccount token with the audience imagecache; read again for each request."),
    ] = Path("/var/run/secrets/imagecache/token")
    store_ca: Annotated[
        Path,
        Meaning("file", "PEM certificates of the authorities that may sign the served store's certificate."),
    ] = Path("/etc/imagecache/store-ca/ca.crt")
    store_compression: Annotated[
        StoreCompression,
        Meaning(
            "auto | always | never",
            "Whether layers travel from the served store in compressed blocks. auto: where that is faster, which the "
            "agent measures while it fetches.",
        ),
    ] = StoreCompression.AUTO
    leases: Annotated[
        str,
        Meaning(
            "directory",
            "Of nodes that share the directory store: all that they write, namely leases, what they have attached, and "
            "the lock of collections. The same one for the controller, which collects by it. Agents then only read the "
            "store. Empty: it is in the store, and nodes must be able to write there.",
        ),
    ] = ""
    taint_timeout: Annotated[
        float,
        Meaning(
            "seconds",
            "From the agent's start until it removes the Node's taint imagecache.dev/not-ready although caches are "
            "missing. 0: never; the taint stays until they are ready.",
        ),
    ] = 300.0
    reserve: Annotated[
        float,
        Meaning(
            "share, 0 to 1",
            "Share of the disk that fetches leave free: kubelet evicts pods below its own limit (imagefs.available).",
        ),
    ] = 0.15
    lease_namespace: Annotated[
        str,
        Meaning("name", "Namespace of the Lease by which one controller is elected. Empty: the Pod's own."),
    ] = ""
    controller_builds: Annotated[
        int,
        Meaning(
            "count",
            "Image caches built at the same time; each build uses as many processes as the setting jobs. One that "
            "takes long gives its place to those that wait, and goes on later.",
        ),
    ] = 2
    pods: Annotated[
        bool,
        Meaning(
            "true | false",
            "The controller matches pods with caches: it annotates them, holds those that pin a cache until that is "
            "usable, and says so in events.",
        ),
    ] = True
    pods_auto_create: Annotated[
        bool,
        Meaning(
            "true | false",
            "A cache is made for the images of every pod that misses, unless something nearer to the pod says "
            "imagecache.dev/auto-create: false. Where this is false, what says true has one made.",
        ),
    ] = False
    auto_caches: Annotated[
        int,
        Meaning(
            "count",
            "Caches that pods had made for them, at most: at the limit the least recently matched one goes. 0: none.",
        ),
    ] = 25
    auto_caches_per_namespace: Annotated[
        int,
        Meaning(
            "count",
            "Of these, those that the pods of one namespace had made, at most: at the limit the least recently matched "
            "one of that namespace goes. 0: as many as of all.",
        ),
    ] = 10
    pod_events: Annotated[
        bool,
        Meaning(
            "true | false",
            "The agent writes an Event on each pod that used a cache: layers from it, bytes pulled, time.",
        ),
    ] = True
    max_caches: Annotated[
        int,
        Meaning(
            "count",
            "Image caches that a cluster may have, without those that pods had made for them. At the limit those go "
            "that are marked imagecache.dev/elimination-strategy: LRU, least recently used first; what does not fit "
            "waits. 0: no limit.",
        ),
    ] = 500
    max_store_size: Annotated[
        int,
        Meaning(
            "GiB",
            "Size of the layer images in the controller's store from which on no other cache is begun, until there is "
            "room as with max_caches. What has been begun is finished. 0: no limit.",
        ),
    ] = 0
    tag_check_interval: Annotated[
        float,
        Meaning(
            "seconds",
            "Between two looks of the controller at a tag: whether it names something else than when its cache was "
            "built. A request without content; none for digests. 0: never.",
        ),
    ] = 3600.0
    serve_address: Annotated[
        str,
        Meaning(
            "host:port", "Address at which the controller serves the store to agents, over HTTPS. Empty: not served."
        ),
    ] = ""
    serve_certificate: Annotated[
        Path,
        Meaning("file", "PEM certificate chain of the served store; read again when it changes."),
    ] = Path("/etc/imagecache/tls/tls.crt")
    serve_key: Annotated[
        Path,
        Meaning("file", "PEM private key of the served store."),
    ] = Path("/etc/imagecache/tls/tls.key")
    serve_agents: Annotated[
        tuple[str, ...],
        Meaning("user names, comma-separated", "Users (service accounts) that may read the served store."),
    ] = ("system:serviceaccount:imagecache-system:imagecache-agent",)
    serve_compressed_size: Annotated[
        int,
        Meaning(
            "GiB",
            "Compressed blocks that the controller keeps in the store, so that each is compressed once for all nodes; "
            "the oldest go first, and all of them when a tenth of the disk is not free. 0: none are kept.",
        ),
    ] = 10
    log_format: Annotated[
        LogFormat,
        Meaning("auto | json | console", "Format of log lines on stderr; auto: console on a terminal, else json."),
    ] = LogFormat.AUTO
    log_level: Annotated[
        LogLevel,
        Meaning(
            "auto | debug | info | warning | error",
            "Lowest severity that is logged; auto: info for services, warning for other commands.",
        ),
    ] = LogLevel.AUTO


def _table() -> dict[str, Setting]:
    hints = get_type_hints(Settings, include_extras=True)
    table = {}
    for field in dataclasses.fields(Settings):
        kind, meaning = get_args(hints[field.name])
        table[field.name] = Setting(
            field.name, kind, field.default, meaning.unit, meaning.help, positive=meaning.positive
        )
    return table


SETTINGS: dict[str, Setting] = _table()
