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
)
def agent(session: Session) -> None:
    """Run the node process.

    Layers for containerd, page-cache trim, expiry of caches, health and metrics.

    Stops on SIGTERM; mounts and containers stay, callers wait on a socket that the service manager holds.
    """
    with suppress(Interrupted):
        run(session.application(service=True).services().agent())
