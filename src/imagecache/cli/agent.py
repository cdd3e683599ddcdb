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
    "trim_delay",
    "metrics_address",
    "allow_private_names",
    "kubeconfig",
    "node_name",
    "store_url",
    "store_name",
    "store_token",
    "store_ca",
    "taint_timeout",
    "reserve",
    service=True,
)
def agent(session: Session) -> None:
    """Run the node process.

    Layers for containerd, page-cache trim, health and metrics. On one host, expiry of its caches; with --node-name, the
    caches of a Kubernetes cluster: what is meant for this node is fetched, attached and reported.

    Stops on SIGTERM; mounts and containers stay, callers wait on a socket that the service manager holds.
    """
    from imagecache.apps import agent as process

    with suppress(Interrupted):
        run(process.run(session.settings, session.clock))
