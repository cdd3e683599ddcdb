"""A verdict as ``match`` and ``explain`` show it: lines for people, JSON values for programs. It must not print."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from imagecache.cli.sections import line, section

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from imagecache.api.yamltext import JSON
    from imagecache.match.views import AutoCache, Candidate, Verdict
    from imagecache.settings.table import Settings

_VALUE = 200
"""Characters of an annotation's value that are shown."""


class Output(enum.Enum):
    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text or json.")]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAMESPACE", help="Of pods that name none. [default: the context's]"),
]


def cluster_defaults(settings: Settings) -> Mapping[str, str]:
    """``Defaults.cluster``."""
    from imagecache.match.keys import CREATE

    return {CREATE: "true"} if settings.pods_auto_create else {}


def lines(verdict: Verdict, now: dt.datetime) -> list[str]:
    return [
        line("Outcome", outcome(verdict)),
        *_asked(verdict),
        *_images(verdict),
        *_candidates(verdict, now),
        *_creates(verdict),
        *[line("Note", text) for text in verdict.notes],
    ]


def outcome(verdict: Verdict) -> str:
    """In one line."""
    from imagecache.match.views import Outcome

    match verdict.outcome:
        case Outcome.HIT:
            return f"hit: {verdict.winner} ({verdict.id})"
        case Outcome.NOT_FOUND:
            return f"not found: there is no cache {verdict.ask.pin[:_VALUE]}, which the pod is pinned to"
        case Outcome.NOT_COMPLETE:
            return f"not complete: the pod is pinned to {verdict.winner}, which does not serve yet"
        case Outcome.MISSED:
            return "missed: no cache is used, what no cache has is pulled"
        case Outcome.NOTHING:
            return "nothing: automatic matching is off for this pod"


def document(verdict: Verdict) -> dict[str, JSON]:
    """For programs. Keys are never removed."""
    asked = verdict.ask
    return {
        "outcome": verdict.outcome.value,
        "imageCache": verdict.winner,
        "imageCacheId": verdict.id,
        "hold": verdict.hold,
        "asked": {
            "pin": asked.pin,
            "auto": asked.auto,
            "create": asked.create,
            "perfect": asked.perfect,
            "count": asked.count,
            "requireNode": asked.require_node,
            "explicit": asked.explicit,
            "said": [{"key": each.key, "value": each.value, "where": each.where} for each in asked.sources],
        },
        "images": [{"image": image, "cachedBy": list(names)} for image, names in verdict.served],
        "candidates": [_candidate(each) for each in verdict.candidates],
        "creates": _auto_cache(verdict.create) if verdict.create else None,
        "events": [{"reason": each.reason, "type": each.type, "message": each.message} for each in verdict.events],
        "notes": list(verdict.notes),
    }


def _asked(verdict: Verdict) -> list[str]:
    rows = [(each.key, each.value[:_VALUE], each.where) for each in verdict.ask.sources]
    return section("Asked", ("KEY", "VALUE", "SAID BY"), rows)


def _images(verdict: Verdict) -> list[str]:
    rows = [(image, ", ".join(names) or "<none>") for image, names in verdict.served]
    return section("Images", ("IMAGE", "CACHED BY"), rows)


def _candidates(verdict: Verdict, now: dt.datetime) -> list[str]:
    """The one that is taken first, the others by rank."""
    from imagecache.api import columns

    rows = [
        (
            each.name,
            each.id,
            str(each.exact),
            str(each.repository),
            columns.size(each.size) if each.size else "",
            columns.age((now - each.created).total_seconds()) if each.created.timestamp() else "<unknown>",
            each.why or "<taken>",
        )
        for each in sorted(verdict.candidates, key=lambda each: not each.won)
    ]
    return section("Candidates", ("NAME", "ID", "EXACT", "REPOSITORY", "SIZE", "AGE", "WHY NOT"), rows)


def _creates(verdict: Verdict) -> list[str]:
    from imagecache.api import columns

    made = verdict.create
    if made is None:
        return []
    return [line("Creates", f"{made.name}: {columns.count(len(made.images), 'image')}, at most {made.size} GiB")]


def _candidate(each: Candidate) -> dict[str, JSON]:
    from imagecache.api import times

    return {
        "name": each.name,
        "id": each.id,
        "exact": each.exact,
        "repository": each.repository,
        "size": each.size,
        "created": times.render(each.created),
        "won": each.won,
        "why": each.why,
    }


def _auto_cache(made: AutoCache) -> dict[str, JSON]:
    return {
        "name": made.name,
        "images": list(made.images),
        "imagePullSecrets": list(made.pull_secrets),
        "imageCacheSize": made.size,
        "annotations": dict(made.annotations),
    }
