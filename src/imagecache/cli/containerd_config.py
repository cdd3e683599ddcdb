"""``imagecache containerd-config``: our drop-in for containerd, printed, installed, undone."""

from __future__ import annotations

import sys

import typer

from imagecache.cli.application import ConfigReport
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, note, say

app = typer.Typer(help="Configure containerd, and undo it.", no_args_is_help=True, rich_markup_mode=None)
_FLAGS = ("address", "mode", "snapshotter", "agent_socket", "agent_root", "containerd_config")


@app.command("print")
@settings_flags(*_FLAGS)
def print_(session: Session) -> None:
    """Print the drop-in for this node."""
    sys.stdout.write(session.application().containerd_config().text())


@app.command()
@settings_flags(*_FLAGS)
def install(session: Session) -> None:
    """Write the drop-in beside containerd's configuration. Restart containerd afterwards."""
    _report(session.application().containerd_config().install())


@app.command()
@settings_flags(*_FLAGS)
def undo(session: Session) -> None:
    """Remove the drop-in, and leave containerd's configuration as it was."""
    _report(session.application().containerd_config().undo())


def _report(report: ConfigReport) -> None:
    for change in report.changes:
        say(f"{change.path} {change.action}")
    if report.restart_needed:
        note("containerd reads its configuration when it starts: systemctl restart containerd")
