"""``imagecache keeper``: what stays of proxy mode's DaemonSet on a node."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

import typer

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, note, run
from imagecache.concurrency import run_all
from imagecache.errors import Interrupted


@settings_flags("mode", "metrics_address", "node_name", "store_url", "store_token", "store_ca", service=True)
def keeper(
    session: Session,
    health: Annotated[
        str, typer.Option("--health", metavar="HOST:PORT", help="Address of /livez, /readyz and /metrics.")
    ] = "",
) -> None:
    """Hand the Pod's credentials to the agent that `imagecache host install` has installed, until SIGTERM.

    For the Pod of a DaemonSet, without privileges: of the host it has the directory /run/imagecache/pod. It is not
    ready while the agent is not. At SIGTERM it asks the host to uninstall the agent if the DaemonSet was deleted, has
    another mode or no longer selects this Node; in an upgrade, a drain or a restart nothing is asked.
    """
    from imagecache.agent.daemonset import OwnDaemonSet
    from imagecache.apps.host_service import follow, is_removed, open_keeper, withdraw_report

    daemonset = OwnDaemonSet(session.settings)
    kept = open_keeper(session.settings)
    with suppress(Interrupted):
        run(run_all(kept.run(health), follow(daemonset)))
    if asyncio.run(is_removed(daemonset)):
        try:
            if not asyncio.run(kept.ask_to_leave()):
                note("the host has not answered yet; it goes on without this Pod (imagecache-leave.service)")
        finally:  # with the credentials that the agent has it could write, but not know that it is to leave
            asyncio.run(withdraw_report(session.settings))
