"""``imagecache doctor``: everything a node needs, looked at."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from imagecache.cli.application import Check, Severity
from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, paint, run, say

EXIT_CODES = {Severity.OK: 0, Severity.WARNING: 80, Severity.PROBLEM: 81}
_COLOURS = {Severity.OK: "32", Severity.WARNING: "33", Severity.PROBLEM: "31"}


@settings_flags("address", "namespace", "mode", "snapshotter", "agent_socket", "agent_root", "containerd_config")
def doctor(
    session: Session, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """Check this node.

    Kernel, containerd, store and agent. Exit code 0: all ok, 80: warnings, 81: problems.
    """
    checks = run(session.application().host().doctor())
    for check in checks:
        say(_as_json(check) if as_json else as_text(check))
    worst = max((check.severity for check in checks), default=Severity.OK)
    raise typer.Exit(EXIT_CODES[worst])


def as_text(check: Check) -> str:
    word = paint(f"{check.severity.name.lower():<8}", _COLOURS[check.severity], sys.stdout)
    remedy = f"\n{'':<8} {'':<12}-> {check.remedy}" if check.remedy else ""
    return f"{word} {check.area:<11} {check.name}: {check.detail}{remedy}"


def _as_json(check: Check) -> str:
    return json.dumps(
        {
            "area": check.area,
            "name": check.name,
            "severity": check.severity.name.lower(),
            "detail": check.detail,
            "remedy": check.remedy,
        }
    )
