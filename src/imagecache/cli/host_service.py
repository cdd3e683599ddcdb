"""``imagecache host``: the agent as a service of this host, installed, looked at, removed."""

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
    "containerd_config",
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
)
Root = Annotated[Path, typer.Option("--root", metavar="DIRECTORY", help="Where the host's / is seen from here.")]
Unit = Annotated[str, typer.Option("--containerd-unit", metavar="UNIT", help="containerd's systemd unit.")]
Leave = Annotated[
    bool, typer.Option("--leave-containerd", help="Neither configure nor restart containerd: somebody else does.")
]
_ROOT = Path("/")


@app.command()
@settings_flags(*_FLAGS)
def install(session: Session, root: Root = _ROOT, unit: Unit = CONTAINERD, leave_containerd: Leave = False) -> None:
    """Install or upgrade the agent on this host, with its own interpreter, and start it.

    The settings become its configuration file. containerd is configured and restarted; containers go on. Native mode
    only configures containerd. Exit code 65: all is done but the start, because no systemd runs here.
    """
    _say(_host(session, root, unit, configure=not leave_containerd).install())


@app.command()
@settings_flags(*_FLAGS)
def uninstall(session: Session, root: Root = _ROOT, unit: Unit = CONTAINERD, leave_containerd: Leave = False) -> None:
    """Take the agent off this host; containers go on.

    New containers get containerd's own snapshotter at once. The service stays, and does nothing but serve, until the
    last container that stands on its bundles has gone; then the host removes it by itself.
    """
    _say_left(_host(session, root, unit, configure=not leave_containerd).uninstall())


@app.command()
@settings_flags(*_FLAGS)
def status(session: Session, root: Root = _ROOT, unit: Unit = CONTAINERD) -> None:
    """Look at the host service. Exit code 0: all ok, 81: problems."""
    show(_host(session, root, unit).status())


@app.command()
@settings_flags(*_FLAGS, service=True)
def keep(
    session: Session,
    health: Annotated[
        str, typer.Option("--health", metavar="HOST:PORT", help="Where /livez, /readyz and /metrics are served.")
    ] = "",
    root: Root = _ROOT,
    unit: Unit = CONTAINERD,
    leave_containerd: Leave = False,
) -> None:
    """Install, then hand the Pod's credentials to the host service until SIGTERM.

    For the Pod of a DaemonSet; not ready while the agent does not answer, or containerd was not restarted. When the
    DaemonSet is gone at the end, has another mode or selects this Node no more, the host service is uninstalled; in an
    upgrade, a drain or a restart it stays.
    """
    from imagecache.apps.host_service import is_removed, withdraw_report

    host = _host(session, root, unit, configure=not leave_containerd)
    try:
        _say(host.install())
    except ServiceManagerMissing as missing:  # whoever starts services here needs the credentials all the same
        report(missing)
    with suppress(Interrupted):
        run(host.keep(health))
    if asyncio.run(is_removed(session.settings)):
        try:
            _say_left(host.uninstall())
        finally:  # nobody renews the agent's credentials from here on
            asyncio.run(withdraw_report(session.settings))


def _host(session: Session, root: Path, unit: str, *, configure: bool = True) -> AgentInstallation:
    from imagecache.agent.installation import HostOptions
    from imagecache.apps import host_service

    return host_service.open_installation(session.settings, session.clock, HostOptions(root, unit, configure))


def _say(changes: Sequence[Change]) -> None:
    from imagecache.host.containerd_config import Action

    for change in changes:
        if change.action is not Action.UNCHANGED:
            say(f"{change.path} {change.action.value}")


def _say_left(left: Uninstalled) -> None:
    _say(left.changes)
    for image in left.forgotten:
        say(f"{image} forgotten")
    if not left.done:
        count = "1 bundle is" if left.in_use == 1 else f"{left.in_use} bundles are"
        when = f"{count} in use; the host removes the rest when that has ended"
        note(f"{when if left.in_use else 'the host removes the rest by itself'} (imagecache-leave.timer)")
