"""``imagecache describe``: everything about one cache, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from imagecache.cli.names import complete
from imagecache.cli.options import settings_flags
from imagecache.cli.sections import line, section
from imagecache.cli.session import Session, say

if TYPE_CHECKING:
    import datetime as dt

    from imagecache.api.describe import Description
    from imagecache.api.types import ImageCache, Status

_NEXT_STEPS = {
    "retry": "run the same {verb} again; it may succeed later",
    "fix_input": "change the manifest or its secrets, then run {verb} again",
    "fix_environment": "repair the host as the reason says, then run {verb} again; 'imagecache doctor' helps",
    "report_bug": "report it, it is a fault of imagecache",
}
_BY_THE_AGENT = (
    "correct the Secret, or the configuration of the registry (hosts.toml, docker's config.json): this host's agent "
    "builds it again then; or run {verb} again"
)
_RESUME = "nothing is lost; run the same create again"


@settings_flags()
def describe(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="An ImageCache.", autocompletion=complete)],
) -> None:
    """Show everything about an ImageCache.

    Images, layers and who shares them, events, and for a failure its reason and the next step.
    """
    description = session.host().describe(name)
    now = session.environment.clock.now()
    for text in [
        *_head(description, now),
        *_images(description),
        *_notes(description),
        *_layers(description),
        *_events(description, now),
    ]:
        say(text)


def _head(description: Description, now: dt.datetime) -> list[str]:
    from imagecache.api import columns, times

    cache, status = description.cache, description.cache.status
    metadata = cache.metadata
    created = times.parse(metadata.creation_timestamp)
    lines = [line("Name", cache.name)]
    lines += [line("" if index else "Annotations", text) for index, text in enumerate(_annotations(cache))]
    lines.append(line("Created", f"{metadata.creation_timestamp} ({columns.age((now - created).total_seconds())} ago)"))
    if status is not None:
        lines += _state(status, busy=description.busy)
        lines += _refresh(cache, now)
    elif not description.busy:
        lines.append(line("Interrupted", _RESUME))
    return lines


def _annotations(cache: ImageCache) -> list[str]:
    return [f"{key}: {value}" for key, value in sorted(cache.metadata.annotations.items())] or ["<none>"]


def _state(status: Status, *, busy: bool) -> list[str]:
    from imagecache.api import columns, phases
    from imagecache.api.types import Phase

    lines = [line("Cache ID", status.image_cache_id), line("Phase", f"{status.phase.value} ({status.progress})")]
    if not busy and status.phase in phases.UNFINISHED and not status.reason:
        updating = status.phase is Phase.UPDATING
        lines.append(
            line("Interrupted", "the earlier content serves; run the same apply again" if updating else _RESUME)
        )
    if status.size:
        lines.append(line("Size", columns.size(status.size)))
    lines.append(line("Expires", status.expire_date_time or "never"))
    if status.matches:
        lines.append(line("Matches", f"{status.matches}, the last at {status.last_matched_time}"))
    if status.nodes is not None:
        lines.append(line("Attached", "yes" if status.nodes.ready else "no"))
    taken = phases.condition(status, "NameTaken")
    if taken is not None and taken.status == "True":
        lines.append(line("Name taken", taken.message))
    if status.reason:
        lines += [line("Reason", status.reason), line("Next step", _next_step(status))]
    if status.attempt is not None and status.attempt.next_time:
        lines.append(line("Next try", f"{status.attempt.next_time}, by this host's agent"))
    return lines


def _refresh(cache: ImageCache, now: dt.datetime) -> list[str]:
    from imagecache.api import refresh, times

    schedule, problem = refresh.schedule(cache.metadata.annotations)
    if problem:
        return [line("Refresh", problem)]
    return [line("Next refresh", f"{times.render(schedule.next(now))}, by this host's agent")] if schedule else []


def _next_step(status: Status) -> str:
    """From the class of the error that the build ended with."""
    from imagecache.api import phases
    from imagecache.api.types import Phase
    from imagecache.controller import failures
    from imagecache.errors import PullSecretUnavailable, by_name

    verb = "apply" if status.phase in {Phase.UPDATING, Phase.UPDATE_FAILED} else "create"
    reason = phases.outcome(status)[0]
    of_access = failures.is_of_access(reason) and status.phase in phases.FAILED
    heals = of_access or reason == PullSecretUnavailable.__name__
    step = _BY_THE_AGENT if heals else _NEXT_STEPS[by_name(reason).next_step.value]
    return step.format(verb=verb)


def _images(description: Description) -> list[str]:
    from imagecache.api import columns

    if description.bundle is None:
        rows = [(image, "", "", "", "", "", "") for image in description.cache.spec.images]
    else:
        rows = [
            (
                image.reference,
                str(image.platform),
                str(image.target.digest),
                str(len(image.layers)),
                columns.size(sum(layer.blob.size for layer in image.layers)),
                "yes" if image.private else "no",
                "yes" if image.verified else "no",
            )
            for image in description.bundle.images
        ]
    return section("Images", ("IMAGE", "PLATFORM", "DIGEST", "LAYERS", "COMPRESSED", "PRIVATE", "VERIFIED"), rows)


def _notes(description: Description) -> list[str]:
    """What is unusual about an image: that it will not pull without the cache, for example."""
    from imagecache.api import building

    return [line("Note", note) for note in building.notes(description.bundle)] if description.bundle else []


def _layers(description: Description) -> list[str]:
    from imagecache.api import columns

    rows = [
        (
            layer.diff_id.short,
            columns.size(layer.size),
            str(len(layer.images)),
            ", ".join(layer.shared_with) or "<none>",
        )
        for layer in description.layers
    ]
    return section("Layers", ("DIFFID", "SIZE", "IMAGES", "SHARED WITH"), rows)


def _events(description: Description, now: dt.datetime) -> list[str]:
    from imagecache.api import columns, times

    status = description.cache.status
    rows = [
        (
            event.type,
            event.reason,
            columns.age((now - times.parse(event.last_timestamp)).total_seconds())
            + (f" (x{event.count})" if event.count > 1 else ""),
            event.message,
        )
        for event in (status.events if status else ())
    ]
    return section("Events", ("TYPE", "REASON", "AGE", "MESSAGE"), rows)
