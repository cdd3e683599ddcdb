"""``imagecache check``: verify what the store holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, note, say
from imagecache.errors import StoreCorrupt

if TYPE_CHECKING:
    from imagecache.store.check import Finding, Report


@settings_flags()
def check(
    session: Session,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also hash layer images, and derive each again from its own tar.")
    ] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Move corrupt files aside; the next build makes them again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Verify what the store holds.

    Lists corrupt, missing and unexpected files. Nothing is deleted; builds and containers may run meanwhile.
    """
    from imagecache.apps import check as checker

    report = checker.check(session.settings, session.clock, deep=deep, quarantine=quarantine)
    if as_json:
        say(_as_json(report))
    else:
        _print(report)
    if not report.healthy:
        raise typer.Exit(StoreCorrupt.exit_code)


def _print(report: Report) -> None:
    for kind, findings in _groups(report).items():
        for finding in findings:
            say(f"{kind:<10} {finding.path}: {finding.problem}{_moved(finding)}")
    bad = len(report.corrupt) + len(report.missing)
    say(f"{report.checked} files checked, {bad or 'no'} {'problem' if bad == 1 else 'problems'}")
    if bad:
        note("delete the image cache and create it again: only missing layers are built; containers are untouched")


def _groups(report: Report) -> dict[str, list[Finding]]:
    return {"corrupt": report.corrupt, "missing": report.missing, "unexpected": report.unexpected}


def _moved(finding: Finding) -> str:
    return f" (set aside as {finding.moved_to})" if finding.moved_to else ""


def _as_json(report: Report) -> str:
    groups = {
        kind: [
            {"path": str(each.path), "problem": each.problem, "movedTo": str(each.moved_to) if each.moved_to else None}
            for each in findings
        ]
        for kind, findings in _groups(report).items()
    }
    return json.dumps({"checked": report.checked, "healthy": report.healthy, **groups})
