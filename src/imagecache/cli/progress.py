"""Displays of a running ``create`` or ``apply``: lines for logs, JSON for programs; ``live`` has the one for terminals.

Each display is a context manager that shows the events of the command and of its build. It must not decide anything
about the build.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from imagecache.api import columns
from imagecache.api.types import RESOURCE
from imagecache.builder.build_events import Advanced, BuildEvent, ImageReady, ImageResolved, Planned
from imagecache.cli.session import note, say
from imagecache.cli.tally import Tally
from imagecache.clock import Clock
from imagecache.containerd.api import Attached
from imagecache.errors import ImageCacheError
from imagecache.plain_host.verbs import Accepted, Built, ShownEvent

LINE_INTERVAL = 2.0
"""Seconds between two lines of progress."""
JSON_INTERVAL = 0.2
"""Seconds between two progress events."""


class Display(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def on(self, event: ShownEvent) -> None:
        """Show one event."""

    def failed(self, error: ImageCacheError) -> None:
        """Show an error that ends the build, in addition to the message on stderr."""


def choose(clock: Clock, *, as_json: bool) -> Display:
    """The display for this stdout."""
    if as_json:
        return JsonDisplay(clock)
    if sys.stdout.isatty():
        from imagecache.cli.live import LiveDisplay

        return LiveDisplay(clock)
    return LineDisplay(clock)


def summary(tally: Tally) -> str:
    """``42% 300MiB of 700MiB, 85MiB/s, 5s left``: bytes are those downloaded and converted."""
    left = tally.seconds_left
    parts = [f"{tally.percent}% {columns.size(tally.done)} of {columns.size(tally.total)}"]
    if tally.rate:
        parts.append(f"{columns.size(int(tally.rate))}/s")
    if left is not None:
        parts.append(f"{columns.age(left)} left")
    return ", ".join(parts)


def outcome(event: Accepted | Built | Attached) -> list[str]:
    """The lines that both displays for people print."""
    match event:
        case Accepted(name=name, how=how):
            return [f"{RESOURCE}/{name} {how}"]
        case Built(name=name, cache_id=cache_id):
            return [f"{RESOURCE}/{name} ready ({cache_id})"]
        case Attached():
            lines = [f"{image} attached" for image in event.images]
            lines += [f"{image} layers attached, name withheld (private)" for image in event.withheld]
            lines += [f"{image} layers attached, name withheld (unverified registry)" for image in event.unverified]
            lines += [f"{image} layers attached, name withheld (reserved)" for image in event.reserved]
            return lines + not_attached(event) + other_snapshotters(event)


def not_attached(attached: Attached) -> list[str]:
    """The lines about images that are as if they were not in the cache."""
    lines = [f"{name} means another image here: ImageCache {owner} owns it" for name, owner in attached.taken.items()]
    lines += [f"{name} means another image here: the node has pinned it" for name in attached.pinned]
    lines += [f"{image} not attached: it is for other platforms than this host's" for image in attached.foreign]
    return lines + [f"{image} not attached: native mode cannot serve every layer" for image in attached.missed]


def other_snapshotters(attached: Attached) -> list[str]:
    """The lines about runtime handlers that do not use our snapshotter."""
    lines = [f"unpacked into {name} too" for name in sorted(attached.unpacked)]
    return lines + [f"runtime handler {name} cannot start them: also_unpack is off" for name in attached.left_out]


class LineDisplay:
    """Plain lines: one per change of an image, progress at most every two seconds."""

    def __init__(self, clock: Clock, say: Callable[[str], None] = say) -> None:
        self._clock = clock
        self._say = say
        self._tally = Tally()
        self._shown = clock.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def failed(self, error: ImageCacheError) -> None:
        pass

    def on(self, event: ShownEvent) -> None:
        if isinstance(event, Accepted | Built | Attached):
            for line in outcome(event):
                self._say(line)
            for text in event.notes if isinstance(event, Accepted) else ():
                note(text)
            return
        now = self._clock.monotonic()
        self._tally.on(event, now)
        self._build(event, now)

    def _build(self, event: BuildEvent, now: float) -> None:
        match event:
            case ImageResolved():
                amount = f"{columns.count(event.layers, 'layer')}, {columns.size(event.size)}"
                self._say(f"{event.image}: {event.digest.algorithm}:{event.digest.short}, {amount}")
            case ImageReady():
                self._say(f"{event.image}: ready")
            case Planned() | Advanced() if now - self._shown >= LINE_INTERVAL:
                self._shown = now
                self._say(summary(self._tally))


class JsonDisplay:
    """One JSON object per line; ``event`` names its kind. The only output that programs may rely on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._shown = clock.monotonic() - JSON_INTERVAL

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def failed(self, error: ImageCacheError) -> None:
        _emit(
            "error",
            reason=error.reason,
            message=str(error),
            hint=error.hint,
            image=error.image,
            nextStep=error.next_step.value,
            exitCode=error.exit_code,
        )

    def on(self, event: ShownEvent) -> None:
        match event:
            case Accepted(name=name, cache_id=cache_id, how=how):
                _emit("accepted", name=name, cacheId=cache_id, resumed=how != "created", notes=list(event.notes))
            case ImageResolved():
                _emit("resolved", image=event.image, digest=event.digest, layers=event.layers, size=event.size)
            case Planned():
                layers = [
                    {"digest": plan.digest, "size": plan.size, "cached": plan.cached, "images": list(plan.images)}
                    for plan in event.layers
                ]
                _emit("planned", layers=layers, done=event.done, total=event.total)
            case Advanced():
                self._advanced(event)
            case ImageReady():
                _emit("imageReady", image=event.image, done=event.done, total=event.total)
            case Built(name=name, cache_id=cache_id):
                _emit("ready", name=name, cacheId=cache_id)
            case Attached():
                _emit(
                    "attached",
                    images=list(event.images),
                    withheld=list(event.withheld),
                    unverified=list(event.unverified),
                    reserved=list(event.reserved),
                    taken=dict(event.taken),
                    pinned=list(event.pinned),
                    missed=list(event.missed),
                    foreign=list(event.foreign),
                    unpackedInto=sorted(event.unpacked),
                    leftOut=list(event.left_out),
                )

    def _advanced(self, event: Advanced) -> None:
        now = self._clock.monotonic()
        if now - self._shown < JSON_INTERVAL and event.done < event.total:  # the last one is always printed
            return
        self._shown = now
        _emit(
            "progress",
            layer=event.layer,
            downloaded=event.downloaded,
            converted=event.converted,
            done=event.done,
            total=event.total,
        )


def _emit(event: str, **values: object) -> None:
    say(json.dumps({"event": event, **values}))
