"""``imagecache host``: install, uninstall and show the agent as a service of this host."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagecache.cli.doctor import show
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, note, report, run, say
from imagecache.concurrency import run_all
from imagecache.errors import Interrupted, ServiceManagerMissing
from imagecache.host.systemd_units import CONTAINERD

if TYPE_CHECKING:
    from imagecache.agent.installation import AgentInstallation
    from imagecache.host.containerd_config import Change
    from imagecache.host.service import Uninstalled

app = typer.Typer(help="The agent as a host service.", no_args_is_help=True, rich_markup_mode=None)
_FLAGS = (
    "address",
    "mode",
    "snapshotter",
    "agent_socket",
    "agent_root",
    "inode_numbers",
    "mount_from",
    "containerd_config",
    "containerd_unit",
    "host_directory",
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
    "leases",
    "taint_timeout",
    "reserve",
)
Root = Annotated[
    Path, typer.Option("--root", metavar="DIRECTORY", help="Mountpoint of the host's / in this container.")
]
Leave = Annotated[
    bool, typer.Option("--leave-containerd", help="Neither configure nor restart containerd: that is done elsewhere.")
]
_ROOT = Path("/")


@app.command()
@settings_flags(*_FLAGS)
def install(session: Session, root: Root = _ROOT, leave_containerd: Leave = False) -> None:
    """Install or upgrade the agent on this host, with its own interpreter, and start it.

    The settings are written to its configuration file. containerd is configured and restarted; containers continue.
    Native mode only configures containerd. Exit code 65: everything but the start is done, as no systemd runs here.
    """
    _say(_host(session, root, configure=not leave_containerd).install())


@app.command()
@settings_flags(*_FLAGS)
def uninstall(session: Session, root: Root = _ROOT, leave_containerd: Leave = False) -> None:
    """Uninstall the agent from this host; containers continue.

    New containers get containerd's own snapshotter at once. The service stays, and only serves existing containers,
    until the last one that uses its snapshots has ended; then a timer on the host removes it.
    """
    _say_uninstalled(_host(session, root, configure=not leave_containerd).uninstall())


@app.command()
@settings_flags(*_FLAGS)
def status(session: Session, root: Root = _ROOT) -> None:
    """Check the host service. Exit code 0: all ok, 81: problems."""
    show(_host(session, root).status())


@app.command()
@settings_flags(
    "mode",
    "snapshotter",
    "agent_socket",
    "agent_root",
    "containerd_config",
    "containerd_unit",
    "host_directory",
    "repair",
)
def repair(session: Session) -> None:
    """Write the drop-in and its import again where containerd's configuration was written anew.

    For containerd's unit, before containerd starts: it restarts nothing, and undoes what containerd cannot read. During
    an install, after an uninstall has begun and with the setting repair=report it does nothing.
    """
    from imagecache.apps.containerd_config import repair_before_start, unit_program

    unit = session.settings.containerd_unit or CONTAINERD
    _say(repair_before_start(session.settings, unit_program(unit)))


@app.command()
@settings_flags(*_FLAGS, service=True)
def keep(
    session: Session,
    health: Annotated[
        str, typer.Option("--health", metavar="HOST:PORT", help="Address of /livez, /readyz and /metrics.")
    ] = "",
    root: Root = _ROOT,
    leave_containerd: Leave = False,
) -> None:
    """Install, then copy the Pod's credentials to the host service until SIGTERM.

    For the Pod of a DaemonSet. It is not ready while the agent does not answer, or containerd must be restarted. At
    SIGTERM the host service is uninstalled if the DaemonSet was deleted, has another mode or no longer selects this
    Node; in an upgrade, a drain or a restart it stays.
    """
    from imagecache.agent.daemonset import OwnDaemonSet
    from imagecache.apps.host_service import follow, is_removed, withdraw_report

    daemonset = OwnDaemonSet(session.settings)
    host = _host(session, root, configure=not leave_containerd)
    try:
        _say(host.install(again=False))
    except ServiceManagerMissing as missing:  # the agent is started by other means, and needs credentials too
        report(missing)
    with suppress(Interrupted):
        run(run_all(host.keep(health), follow(daemonset)))
    if asyncio.run(is_removed(daemonset)):
        try:
            _say_uninstalled(host.uninstall())
        finally:  # without us the agent's credentials expire, so it could not delete its report itself
            asyncio.run(withdraw_report(session.settings))


def _host(session: Session, root: Path, *, configure: bool = True) -> AgentInstallation:
    from imagecache.agent.installation import HostOptions
    from imagecache.apps import host_service

    return host_service.open_installation(session.settings, session.clock, HostOptions(root, configure))


def _say(changes: Sequence[Change]) -> None:
    from imagecache.host.containerd_config import Action

    for change in changes:
        if change.action is not Action.UNCHANGED:
            say(f"{change.path} {change.action.value}")


def _say_uninstalled(done: Uninstalled) -> None:
    _say(done.changes)
    for image in done.forgotten:
        say(f"{image} forgotten")
    if not done.done:
        count = "1 snapshot is" if done.in_use == 1 else f"{done.in_use} snapshots are"
        words = f"{count} in use; " if done.in_use else ""
        note(f"{words}the host finishes the uninstall when no container needs the agent (imagecache-leave.timer)")
