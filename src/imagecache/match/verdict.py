"""Which cache serves a pod, and why: the decision.

A pin counts alone; else nothing when automatic matching is off; else the best of the caches that the pod can use, by
``views.rank``, if ``imc-perfect-match`` or ``imc-match-count-request`` is met. That, and whether an image is missing,
is judged by all these caches together, because a node has them together. A pod that is bound is judged against its own
node; a pin never is. Source: eci-api §3 and §4. Pure: nothing that a user can write raises an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from imagecache.match import autocache, events
from imagecache.match.ask import ask
from imagecache.match.index import Index
from imagecache.match.views import (
    SERVING,
    Ask,
    AutoCache,
    CacheView,
    Candidate,
    Defaults,
    Outcome,
    PodView,
    Rank,
    Verdict,
    rank,
)

_REASON = 200
"""Characters of a cache's own reason that an explanation repeats."""
_IMAGE = 80
"""Characters of a pod's image that a note repeats."""


@dataclass(slots=True)  # not frozen: there may be a thousand for each pod
class _Score:
    """How much one cache has of a pod."""

    cache: CacheView
    exact: int
    repository: int
    problem: str
    """Why the pod cannot use it; empty: it can."""

    @property
    def rank(self) -> Rank:
        return rank(self.exact, self.repository, self.cache.size, self.cache.created, self.cache.name)

    def candidate(self, why: str) -> Candidate:
        """``why`` it was not taken; empty: it was."""
        cache = self.cache
        return Candidate(
            name=cache.name,
            id=cache.id,
            exact=self.exact,
            repository=self.repository,
            size=cache.size,
            created=cache.created,
            won=not why,
            why=why,
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """What the caches have of a pod's images."""

    scores: Mapping[str, _Score]
    """By name of the cache."""
    served: tuple[tuple[str, tuple[str, ...]], ...]
    """As in ``Verdict``."""

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(image for image, names in self.served if not names)


def match(pod: PodView, defaults: Defaults, index: Index) -> Verdict:
    """The verdict for one pod: the same for the same input, in any order of the caches."""
    asked, found = ask(pod, defaults), _look(pod, index)
    if asked.pin:
        return _pinned(pod, asked, index.pinned(asked.pin), found)
    if not asked.auto:
        return Verdict(Outcome.NOTHING, asked, served=found.served, notes=asked.notes)
    return _automatic(pod, asked, index, found)


def _look(pod: PodView, index: Index) -> _Found:
    exact: Counter[str] = Counter()
    related: Counter[str] = Counter()
    for image in pod.images:  # one for each container
        exact.update(index.exact(image))
        related.update(index.related(image))
    scores = {}
    for name, count in related.items():
        cache = index.caches[name]
        scores[name] = _Score(cache, exact[name], count - exact[name], _problem(cache, pod))
    unique = dict.fromkeys(pod.images)
    served = ((image, [name for name in index.exact(image) if not scores[name].problem]) for image in unique)
    return _Found(scores, tuple((image, tuple(sorted(names))) for image, names in served))


def _problem(cache: CacheView, pod: PodView) -> str:
    """Why the pod cannot use the cache; empty: it can."""
    unfit = _unfit(cache, pod)
    away = pod.node and pod.node not in cache.nodes and pod.node not in cache.still
    return unfit or (f"not on {pod.node}" if away else "")


def _unfit(cache: CacheView, pod: PodView) -> str:
    """Why no node helps."""
    if not cache.serves:
        return _state(cache)
    if pod.architecture and cache.architectures and pod.architecture not in cache.architectures:
        return f"made for {', '.join(sorted(cache.architectures))}, the pod runs on {pod.architecture}"
    return ""


def _state(cache: CacheView) -> str:
    """Of a cache that does not serve."""
    if cache.deleted:
        return "is being deleted"
    if cache.phase in SERVING:
        return "has no bundle"
    return f"{cache.phase.value}: {cache.reason[:_REASON]}" if cache.reason else cache.phase.value


def _pinned(pod: PodView, asked: Ask, cache: CacheView | None, found: _Found) -> Verdict:
    if cache is None:
        told = (events.not_found(asked.pin),)
        return Verdict(Outcome.NOT_FOUND, asked, hold=True, served=found.served, events=told, notes=asked.notes)
    score = found.scores.get(cache.name) or _Score(cache, 0, 0, _problem(cache, pod))
    if not cache.serves:
        return Verdict(
            Outcome.NOT_COMPLETE,
            asked,
            winner=cache.name,
            hold=True,
            served=found.served,
            candidates=(score.candidate(score.problem),),
            events=(events.not_complete(asked.pin),),
            notes=asked.notes,
        )
    late = (f"{cache.name}: {score.problem}; what is missing there is pulled",) if score.problem else ()
    return Verdict(
        Outcome.HIT,
        asked,
        winner=cache.name,
        id=cache.id,
        served=found.served,
        candidates=(score.candidate(""),),
        events=(events.hit(cache.id),),
        notes=asked.notes + late,
    )


def _automatic(pod: PodView, asked: Ask, index: Index, found: _Found) -> Verdict:
    missing = found.missing
    bar = _bar(asked, sum(image not in missing for image in pod.images), len(pod.images))
    ranked = sorted(found.scores.values(), key=lambda score: score.rank)
    best = None if bar else next((score for score in ranked if not score.problem), None)
    create, notes = _create(pod, asked, index, found)
    told = events.missed() if best is None else events.hit(best.cache.id)
    return Verdict(
        Outcome.MISSED if best is None else Outcome.HIT,
        asked,
        winner=best.cache.name if best else "",
        id=best.cache.id if best else "",
        served=found.served,
        candidates=tuple(score.candidate(_why_not(score, best, bar)) for score in ranked),
        create=create,
        # the default is to match, so that every pod of the cluster would be told something
        events=(told,) if asked.explicit else (),
        notes=(*asked.notes, *filter(None, (bar,)), *notes),
    )


def _bar(asked: Ask, exact: int, containers: int) -> str:
    """Why no cache may be used; empty when one may. ``imc-perfect-match`` wins over the count."""
    if asked.perfect:
        return "" if exact == containers else f"imc-perfect-match: {exact} of {containers} images are cached exactly"
    if asked.count is not None and exact < asked.count:
        return f"imc-match-count-request: {exact} of {asked.count} images are cached exactly"
    return ""


def _why_not(score: _Score, best: _Score | None, bar: str) -> str:
    """Empty for the best alone."""
    if score.problem or best is None:
        return score.problem or bar
    if score is best:
        return ""
    steps = (
        (score.exact < best.exact, "fewer exact images than"),
        (score.repository < best.repository, "fewer images of the same repository than"),
        (score.cache.size > best.cache.size, "larger than"),
        (score.cache.created < best.cache.created, "older than"),
        (True, "by name after"),
    )
    return f"{next(why for worse, why in steps if worse)} {best.cache.name}"


def _create(pod: PodView, asked: Ask, index: Index, found: _Found) -> tuple[AutoCache | None, tuple[str, ...]]:
    """The cache to be made, and what is ignored for it; None with the reason, if one was asked for and is missing."""
    missing = found.missing
    if not asked.create or not missing:
        return None, ()
    coming = {image: names for image in missing if (names := _coming(image, pod, index, found))}
    if len(coming) == len(missing):
        return None, tuple(f"{image[:_IMAGE]} is on its way: {', '.join(names)}" for image, names in coming.items())
    made, notes = autocache.autocache(pod)
    there = index.caches.get(made.name) if made else None
    if there is not None:  # a failed one keeps its name for a day, so that nothing is tried in vain meanwhile
        return None, (*notes, f"{there.name} exists: {there.phase.value if there.serves else _state(there)}")
    return made, notes


def _coming(image: str, pod: PodView, index: Index, found: _Found) -> list[str]:
    """Caches that are being built with the image, and those that have not reached all their nodes yet."""
    late = (name for name in index.exact(image) if _is_late(found.scores[name], pod))
    return sorted({*late, *index.coming(image)})


def _is_late(score: _Score, pod: PodView) -> bool:
    """Whether it is but the node that does not have it, and it may be one of those that will."""
    cache = score.cache
    return bool(score.problem) and not _unfit(cache, pod) and len(cache.nodes) < cache.desired
