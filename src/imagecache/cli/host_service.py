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
from imagecache.errors import Interrupted, InvalidSetting, ServiceManagerMissing
from imagecache.host.systemd_units import CONTAINERD
from imagecache.settings.choices import Mode

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
    "store_compression",
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
def install(
    session: Session,
    root: Root = _ROOT,
    leave_containerd: Leave = False,
    unattended: Annotated[
        bool, typer.Option("--unattended", help="Do not try again what containerd has refused. No systemd is no error.")
    ] = False,
) -> None:
    """Install or upgrade the agent on this host, with its own interpreter, and start it.

    The settings are written to its configuration file. containerd is configured and restarted; containers continue.
    Native mode only configures containerd. Exit code 65: everything but the start is done, as no systemd runs here.
    With --unattended, as a Pod runs it before `imagecache keeper`: the host then leaves when that asks for it.
    """
    _install(_host(session, root, configure=not leave_containerd), unattended=unattended)


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
    """Configure containerd for native mode, then keep it so until SIGTERM.

    For the Pod of a DaemonSet. It is not ready while containerd must be restarted, or cannot be repaired. At SIGTERM
    containerd gets its old configuration if the DaemonSet was deleted, has another mode or no longer selects this Node;
    in an upgrade, a drain or a restart it stays.
    """
    from imagecache.agent.daemonset import OwnDaemonSet
    from imagecache.apps.host_service import follow, is_removed, withdraw_report

    if session.settings.mode is not Mode.NATIVE:
        raise InvalidSetting(
            f"mode {session.settings.mode.value}: only native mode is kept so",
            hint="imagecache host install --unattended, then imagecache keeper",
        )
    daemonset = OwnDaemonSet(session.settings)
    host = _host(session, root, configure=not leave_containerd)
    _install(host, unattended=True)
    with suppress(Interrupted):
        run(run_all(host.keep(health), follow(daemonset)))
    if asyncio.run(is_removed(daemonset)):
        try:
            _say_uninstalled(host.uninstall())
        finally:  # the agent beside us may not be able to delete its report any more
            asyncio.run(withdraw_report(session.settings))


def _install(host: AgentInstallation, *, unattended: bool) -> None:
    try:
        _say(host.install(again=not unattended))
    except ServiceManagerMissing as missing:
        if not unattended:
            raise
        report(missing)  # the agent is started by other means


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
