"""``imagecache containerd-config``: print, install and undo our drop-in for containerd."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, note, say

if TYPE_CHECKING:
    from imagecache.host.containerd_config import Change, ContainerdConfig

app = typer.Typer(help="Configure containerd, and undo it.", no_args_is_help=True, rich_markup_mode=None)
_FLAGS = ("address", "mode", "snapshotter", "agent_socket", "agent_root", "inode_numbers", "containerd_config")


@app.command("print")
@settings_flags(*_FLAGS)
def print_(session: Session) -> None:
    """Print the drop-in for this node."""
    sys.stdout.write(_config(session).text())


@app.command()
@settings_flags(*_FLAGS)
def install(session: Session) -> None:
    """Write the drop-in beside containerd's configuration. Restart containerd afterwards."""
    _report(_config(session).install())


@app.command()
@settings_flags(*_FLAGS)
def undo(session: Session) -> None:
    """Remove the drop-in, and restore containerd's configuration."""
    _report(_config(session).undo())


def _config(session: Session) -> ContainerdConfig:
    from imagecache.apps.containerd_config import containerd_config

    return containerd_config(session.settings, session.clock)


def _report(changes: Sequence[Change]) -> None:
    from imagecache.host.containerd_config import Action

    for change in changes:
        say(f"{change.path} {change.action.value}")
    if any(change.action is not Action.UNCHANGED for change in changes):
        note("containerd reads its configuration when it starts: systemctl restart containerd")
