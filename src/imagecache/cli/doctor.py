"""``imagecache doctor``: check everything that a node needs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, paint, run, say
from imagecache.host.checks import Check, Status

EXIT_CODES = {Status.OK: 0, Status.WARNING: 80, Status.PROBLEM: 81}
_COLOURS = {Status.OK: "32", Status.WARNING: "33", Status.PROBLEM: "31"}


@settings_flags(
    "address",
    "namespace",
    "mode",
    "snapshotter",
    "agent_socket",
    "agent_root",
    "mount_from",
    "containerd_config",
    "also_unpack",
)
def doctor(
    session: Session, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False
) -> None:
    """Check this node.

    Checks kernel, containerd, store and agent. Exit code 0: all ok, 80: warnings, 81: problems.
    """
    from imagecache.apps import doctor as probes

    show(run(probes.checks(session.settings, session.clock)), as_json=as_json)


def show(checks: Sequence[Check], *, as_json: bool = False) -> None:
    """Print the checks, then exit with the code of the worst."""
    for check in checks:
        if as_json:
            say(_as_json(check))
        else:
            _say(check)
    raise typer.Exit(EXIT_CODES[max((check.status for check in checks), default=Status.OK)])


def _say(check: Check) -> None:
    word = paint(f"{check.status.name.lower():<8}", _COLOURS[check.status], sys.stdout)
    say(f" {check.area:<11} {check.name}: {check.detail}", mark=word)
    if check.remedy:
        say(f"{'':<8} {'':<12}-> {check.remedy}")


def _as_json(check: Check) -> str:
    return json.dumps(
        {
            "area": check.area,
            "name": check.name,
            "severity": check.status.name.lower(),
            "detail": check.detail,
            "remedy": check.remedy,
        }
    )
