"""Why a pod started as it did: the verdict computed again, beside what others have written about the pod. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from imagecache import foreign_json
from imagecache.api.nodes import NodeCache, NodeStatus
from imagecache.api.yamltext import JSON
from imagecache.errors import MalformedDocument
from imagecache.match import events
from imagecache.match.keys import GATE, MATCHED
from imagecache.match.pod import Metadata, Pod, view
from imagecache.match.surroundings import Surroundings
from imagecache.match.verdict import match
from imagecache.match.views import Outcome, PodView, Verdict
from imagecache.written import trimmed

REASONS = (
    events.HIT,
    events.MISSED,
    events.NOT_FOUND,
    events.NOT_COMPLETE,
    events.AUTO_CREATED,
    events.AUTO_CREATE_FAILED,
    events.FAILED,
    events.RELEASED,
    events.SERVED,
)
_WAITING = frozenset({events.NOT_FOUND, events.NOT_COMPLETE})
_PIN = 253
"""Characters of a pin that are repeated."""


class PodEvent(msgspec.Struct, frozen=True, rename="camel"):
    """core/v1 Event, as far as we need it."""

    metadata: Metadata = Metadata()
    type: str = ""
    reason: str = ""
    message: str = ""
    count: int = 1
    first_timestamp: str = ""
    last_timestamp: str = ""

    @property
    def first(self) -> str:
        return self.first_timestamp or self.metadata.creation_timestamp or ""

    @property
    def last(self) -> str:
        return self.last_timestamp or self.first


@dataclass(frozen=True, slots=True)
class Held:
    """Whether our gate holds the pod, or did."""

    now: bool
    before: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    pod: PodView
    verdict: Verdict
    """As of now: caches may have changed since the pod was matched."""
    matched: str
    """The id that the controller has written on the pod; empty: none."""
    matched_name: str
    """Of the cache that has it now; empty: none."""
    held: Held
    node: str
    """That the verdict is for: the pod's own, or another that was asked for; empty: it has none yet."""
    report: NodeStatus | None
    """Of that node."""
    on_node: tuple[NodeCache, ...]
    """Of these reports, the caches that have something of the pod."""
    events: tuple[PodEvent, ...]
    """Ours about the pod, oldest first."""

    @property
    def served(self) -> tuple[str, ...]:
        """What the agent has told about the pod's start."""
        return tuple(event.message for event in self.events if event.reason == events.SERVED)


def explain(pod: Pod, around: Surroundings, told: Iterable[JSON], *, node: str = "") -> Explanation:
    """Why a pod started as it did, or with ``node`` how it would start on that one.

    ``told``: core/v1 Events about the pod; what is none, or not ours, is left out.
    """
    own = view(pod)
    found = replace(own, node=node or own.node)
    verdict = match(found, around.defaults(found.namespace), around.index)
    matched = trimmed(found.annotations.get(MATCHED, ""))
    cache = around.index.pinned(matched) if matched else None
    name = cache.name if cache else ""
    ours = sorted(filter(_is_ours, map(_event, told)), key=lambda event: (event.first, event.reason))
    report = around.reports.get(found.node) if found.node else None
    names = {name, verdict.winner, *(each.name for each in verdict.candidates)}
    return Explanation(
        pod=own,
        node=found.node,
        verdict=verdict,
        matched=matched,
        matched_name=name,
        held=_held(pod, verdict, around, ours),
        report=report,
        on_node=tuple(each for each in report.caches if each.name in names) if report else (),
        events=tuple(ours),
    )


def _is_ours(event: PodEvent) -> bool:
    return event.reason in REASONS


def _event(value: JSON) -> PodEvent:
    try:
        return foreign_json.read(value, PodEvent, conflicts=False)
    except MalformedDocument:
        return PodEvent()


def _held(pod: Pod, verdict: Verdict, around: Surroundings, told: Sequence[PodEvent]) -> Held:
    if pod.is_gated:
        return Held(now=True, before=True, why=f"its scheduling gate {GATE} is there: {_waits_for(verdict, around)}")
    scheduled = pod.scheduled
    # a pod without the gate is told the same, but once it has a node
    before = [event for event in told if event.reason in _WAITING and event.first < scheduled]
    if before:
        return Held(now=False, before=True, why=f"until it was scheduled at {scheduled}: {before[-1].message}")
    if verdict.hold:
        return Held(now=False, before=False, why=f"its pin is not met, but it has no scheduling gate {GATE}")
    return Held(now=False, before=False, why="")


def _waits_for(verdict: Verdict, around: Surroundings) -> str:
    """Why a pod with the gate waits."""
    if verdict.outcome is Outcome.NOT_FOUND:
        return f"there is no cache {verdict.ask.pin[:_PIN]}"
    if verdict.outcome is Outcome.NOT_COMPLETE:
        return f"{verdict.winner} does not serve yet ({verdict.candidates[0].why})"
    if verdict.ask.pin:
        cache = around.index.caches[verdict.winner]
        return f"{cache.name} serves, and is usable on {len(cache.nodes)} of {cache.desired} nodes"
    return "nothing is pinned, so the controller lets it go as soon as it sees it"
