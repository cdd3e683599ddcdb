"""What to do about one pod: a pure function of the pod, the match's verdict, the pinned cache and the time.

Level-style, as ``controller.decide``: it looks at what is. A pod that our gate holds is read again until it is let go,
one that is bound is read once. It must not do I/O, and must not know what was done already: any action may be repeated.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from imagecache.api.types import Phase
from imagecache.controller.pods.pod import Pod
from imagecache.match import events
from imagecache.match.views import AutoCache, CacheView, Outcome, Told, Verdict

GRACE = 2.0
"""Seconds that a pin may be unknown before that is told: cache and pod of one ``kubectl apply`` arrive in any order."""
CATCH_UP = 10.0
"""Seconds after Ready for which a pinned pod waits for all nodes; after that, those that have the cache are enough."""
AGAIN = 3600.0
"""Seconds after which a pod that waits is told so again: the API server keeps events for an hour."""
LATELY = 600.0
"""Seconds since a pod got its node within which it may not have been told: longer than it takes to lead anew."""
NODES = 64
"""Nodes that a pod is given a preference for, at most."""
_LETTERS = 16
_NAME = 230
"""Characters of a pod's name in an event's, which has 253."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All that a decision depends on."""

    pod: Pod
    verdict: Verdict
    now: dt.datetime
    pinned: CacheView | None = None
    """The cache that the verdict names, for a pod that pins one."""
    nodes: int = 0
    """Of the cluster."""
    unknown_for: float = 0.0
    """Seconds for which the pinned cache has been unknown."""
    leaving: bool = False
    """It has started, or is about to be forgotten: there is no later."""


@dataclass(frozen=True, slots=True)
class LetGo:
    """Take our gate away, and annotate in the same request."""

    matched: str = ""
    """Cache id; empty: the annotation stays as it is."""
    nodes: tuple[str, ...] = ()
    """Names of the nodes that it should start on; empty: any."""
    required: bool = False
    """On these and no others."""


@dataclass(frozen=True, slots=True)
class Annotate:
    matched: str
    """Cache id; empty: the annotation goes."""


@dataclass(frozen=True, slots=True)
class Tell:
    told: Told
    name: str
    """Of the event. It follows from the pod and what is said, so that what was told is not told again by anybody."""


@dataclass(frozen=True, slots=True)
class CreateCache:
    cache: AutoCache
    told: bool
    """Somebody has written something for this pod: then it is told why none is made."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again when something changes, and after so many seconds at the latest."""

    seconds: float


Action = LetGo | Annotate | Tell | CreateCache | Wait


def decide(look: Look) -> tuple[Action, ...]:
    """The actions, in the order in which they are carried out. None: nothing is left to be done about this pod."""
    if look.pod.is_gated:
        return _held(look)
    return _bound(look) if look.pod.node else ()


def untold(look: Look) -> tuple[Tell, ...]:
    """What a pod that runs may not have been told, if a controller ended between writing and telling.

    Only what is as it was then: a hit that is written on it and is one still, a miss with nothing written.
    """
    pod, verdict = look.pod, look.verdict
    if not pod.scheduled or pod.bound_for(look.now) >= LATELY:
        return ()
    hit = verdict.outcome is Outcome.HIT and pod.matched == verdict.id
    missed = verdict.outcome is Outcome.MISSED and not pod.matched
    return tuple(Tell(each, _name(look, each)) for each in verdict.events) if hit or missed else ()


def event_name(name: str, uid: str, told: Told, hour: int | None = None, *, of: str = "") -> str:
    """Of what is told to the pod with this name and uid.

    ``hour``: since the pod was created, for what is told again and again. ``of``: what it follows from in place of the
    message, for what is told once in whatever words.
    """
    text = "/".join((uid, told.reason, of or told.message, *(() if hour is None else (str(hour),))))
    short = name[:_NAME].rstrip(".-")  # where it is cut
    return f"{short}.{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:_LETTERS]}"


# held


def _held(look: Look) -> tuple[Action, ...]:
    verdict = look.verdict
    if not verdict.ask.pin:  # edited away; the match follows when its node is known
        return (LetGo(),)
    if verdict.outcome is Outcome.NOT_FOUND and look.unknown_for < GRACE:
        return (Wait(GRACE - look.unknown_for),)
    cache = look.pinned
    if verdict.hold or cache is None:
        return _waits(look, *(verdict.events if verdict.hold else ()))
    return _served(look, cache)


def _served(look: Look, cache: CacheView) -> tuple[Action, ...]:
    """The pinned cache serves: the pod goes once that is so on nodes, or it would begin with an ordinary pull."""
    asked, age = look.verdict.ask, _age(cache, look.now)
    everywhere = _is_everywhere(cache)
    if not _frees(cache, look.now, require_node=asked.require_node):
        again = CATCH_UP - age if age < CATCH_UP and _is_enough(cache, require_node=asked.require_node) else AGAIN
        if age < GRACE:  # the usual moment between Ready and the first node
            return (Wait(min(GRACE - age, again)),)
        return _waits(look, events.not_complete(asked.pin), at_most=again)
    required = asked.require_node and len(cache.nodes) < look.nodes
    chosen = _some(cache.nodes, look.pod.uid) if required or not everywhere else ()
    told = tuple(Tell(each, _name(look, each)) for each in look.verdict.events)
    return (LetGo(look.verdict.id, chosen, required), *told)


def frees(cache: CacheView | None, now: dt.datetime) -> bool:
    """Whether a pod that pins this cache may go now: while not, it need not be looked at when a node has got it."""
    return cache is None or not cache.serves or _frees(cache, now, require_node=False)


def _frees(cache: CacheView, now: dt.datetime, *, require_node: bool) -> bool:
    return _is_everywhere(cache) or (_age(cache, now) >= CATCH_UP and _is_enough(cache, require_node=require_node))


def _is_enough(cache: CacheView, *, require_node: bool) -> bool:
    """When the nodes have had their time."""
    # without a node that it is for, and none that it must start on, nobody is waited for: a held pod brings no new node
    return bool(cache.nodes) or (cache.desired == 0 and not require_node)


def _is_everywhere(cache: CacheView) -> bool:
    """On all nodes that it is for; others may have it still, which it was for before."""
    return min(len(cache.nodes), cache.ready) >= cache.desired > 0


def _waits(look: Look, *told: Told, at_most: float = AGAIN) -> tuple[Action, ...]:
    """Why it waits, again every hour."""
    hour = _hour(look)
    again = min(at_most, (hour + 1) * AGAIN - _waited(look))
    return (*(Tell(each, _name(look, each, hour)) for each in told), *_failure(look), Wait(again))


def failure(cache: str, reason: str) -> str:
    """What names a failure: another one of the same kind is no news. ``reason``: ``status.reason`` of the cache."""
    return f"{cache}/{reason.partition(':')[0]}"


def _failure(look: Look) -> tuple[Tell, ...]:
    """Why the pinned cache has failed. Not an hour later: who was there then has been told, and the event is gone."""
    pod, cache = look.pod, look.pinned
    if cache is None or cache.phase is not Phase.FAILED or cache.deleted:
        return ()
    since = max(cache.failed_since or look.now, pod.created(look.now))
    if (look.now - since).total_seconds() >= AGAIN:
        return ()
    told = events.failed(look.verdict.ask.pin, cache.reason)
    return (Tell(told, event_name(pod.name, pod.uid, told, of=failure(cache.uid, cache.reason))),)


def _waited(look: Look) -> float:
    """Seconds since the pod was made."""
    return max(0.0, (look.now - look.pod.created(look.now)).total_seconds())


def _hour(look: Look) -> int:
    return int(_waited(look) // AGAIN)


def _age(cache: CacheView, now: dt.datetime) -> float:
    """Seconds since it became Ready; what serves while it is updated has been there for long enough."""
    age = CATCH_UP if cache.ready_since is None else (now - cache.ready_since).total_seconds()
    return age if age >= 0 else CATCH_UP  # a clock was set back: nobody waits for it to come there again


def _some(nodes: Collection[str], uid: str) -> tuple[str, ...]:
    """At most ``NODES`` of them: the same for the same pod, others for others, sorted."""
    if len(nodes) <= NODES:
        return tuple(sorted(nodes))
    chosen = sorted(nodes, key=lambda node: hashlib.sha256(f"{uid}/{node}".encode()).digest())[:NODES]
    return tuple(sorted(chosen))


# bound


def _bound(look: Look) -> tuple[Action, ...]:
    verdict, pod = look.verdict, look.pod
    actions: list[Action] = []
    if verdict.outcome is not Outcome.HIT:
        if pod.matched:  # the manifest's: it was copied from another pod
            actions.append(Annotate(""))
    elif pod.matched != verdict.id and (verdict.ask.explicit or pod.matched):
        # a pod about which nobody has written anything costs the API server nothing
        actions.append(Annotate(verdict.id))
    if verdict.outcome is Outcome.NOT_FOUND and look.unknown_for < GRACE and not look.leaving:
        return (*actions, Wait(GRACE - look.unknown_for))
    if pod.bound_for(look.now) < AGAIN:  # else the event has expired: a restart would tell it again
        # a pin that is not met may have been told already, while the pod was held
        hour = _hour(look) if verdict.hold else None
        actions.extend(Tell(each, _name(look, each, hour)) for each in verdict.events)
        if verdict.hold:
            actions.extend(_failure(look))
    if verdict.create is not None:
        actions.append(CreateCache(verdict.create, verdict.ask.explicit))
    return tuple(actions)


def _name(look: Look, told: Told, hour: int | None = None) -> str:
    return event_name(look.pod.name, look.pod.uid, told, hour)
