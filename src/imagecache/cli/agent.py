"""``imagecache agent``: the node process."""

from __future__ import annotations

from contextlib import suppress

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, run
from imagecache.errors import Interrupted


@settings_flags(
    "address",
    "namespace",
    "mode",
    "snapshotter",
    "agent_socket",
    "agent_root",
    "inode_numbers",
    "mount_from",
    "containerd_config",
    "repair",
    "trim_delay",
    "metrics_address",
    "allow_private_names",
    "reserved_names",
    "also_unpack",
    "kubeconfig",
    "node_name",
    "store_url",
    "store_name",
    "store_token",
    "store_ca",
    "store_compression",
    "leases",
    "taint_timeout",
    "reserve",
    "secrets",
    "docker_config",
    "hosts",
    "registry_ca",
    "insecure_registries",
    "registry_retries",
    "registry_connect_timeout",
    "registry_read_timeout",
    "jobs",
    "store_reserve",
    service=True,
)
def agent(session: Session) -> None:
    """Run the node process.

    Serves layers to containerd, trims the page cache, serves health and metrics. On a plain host it attaches, updates
    and expires the host's caches, and retries those that a registry refused once their secrets change; with --node-name
    it fetches, attaches and reports the caches that a cluster assigns to this node.

    Stops on SIGTERM. Mounts and containers stay, and containerd waits at the socket that the service manager keeps.
    """
    from imagecache.apps import agent as process

    with suppress(Interrupted):
        run(process.run(session.settings, session.clock))
