"""An ImageCache in a world that edits it, breaks builds, forgets and comes back: what is true of every decision there.

Nothing here knows how the decisions are made: only what a status may say, what may be deleted, and where it must end.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagecache.api import assignment, building, ids, phases
from imagecache.api.effective_spec import effective_spec
from imagecache.api.nodes import REFRESH
from imagecache.api.own_status import own
from imagecache.api.types import ImageCache, Phase, Spec, Status
from imagecache.controller import choice
from imagecache.controller.decide import decide
from imagecache.controller.decision import (
    Broken,
    Build,
    Decision,
    DeleteBundle,
    DeleteObject,
    Ended,
    ObservedState,
    Running,
    StartBuild,
    StopBuild,
)
from imagecache.controller.failures import TRIES
from imagecache.errors import AlreadyExists, ImageCacheError, InternalError, InvalidManifest
from imagecache.store.bundle_document import Bundle
from tests.unit.controller.situations import AWAY, DISK, NOT_FOUND, NOW, UID, bundle, cache

NGINX, REDIS, FRESH = ("nginx:1.25",), ("redis:7",), ("fresh:1",)
NONSENSE = tuple(f"i{number}:1" for number in range(21))
ENDS: dict[str, ImageCacheError | None] = {
    "as-asked": None,
    "something-else": None,
    "nothing": None,
    "away": AWAY,
    "refused": NOT_FOUND,
    "crash": InternalError("killed"),
}
INSECURE = "k8s.aliyun.com/insecure-registry"


class World:
    """One object, its store and its builder; after every change of them the controller looks, twice."""

    def __init__(self) -> None:
        self.cache: ImageCache = cache()
        self.now = NOW
        self.bundles: dict[str, Bundle] = {}
        self.build: Build | None = None
        self.away = False
        self.started = 0
        self.deleted = False
        self.past: list[Status | None] = [None]

    @property
    def status(self) -> Status:
        assert self.cache.status is not None
        return self.cache.status

    def look(self, *, requested: bool = False) -> Decision:
        decision = self._decide(requested=requested)
        self._carry_out(decision)
        self._check()
        again = self._decide(requested=False)
        assert (again.actions, again.events) == ((), ()), "nothing has happened since"
        assert again.status is self.cache.status, "a controller that writes the same again writes for ever"
        return decision

    def _decide(self, *, requested: bool) -> Decision:
        observed = ObservedState(
            architectures=("amd64",),
            bundles={} if self.away else dict(self.bundles),
            build=self.build,
            store_problem=DISK if self.away else None,
            requested=requested,
        )
        return decide(self.cache, observed, self.now)

    def _carry_out(self, decision: Decision) -> None:
        self.cache = self.cache.with_status(decision.status)
        self.past.append(decision.status)
        for action in decision.actions:
            match action:
                case StopBuild():
                    self.build = None
                case StartBuild(request=request):
                    assert self.build is None
                    self.build, self.started = Running(request), self.started + 1
                case DeleteBundle(bundle_id=name):
                    assert ids.is_of(UID, name)
                    serving = self.status.phase in assignment.SERVING and name == self.status.image_cache_id
                    assert not serving, "content that serves"
                    self.bundles.pop(name, None)
                case DeleteObject():
                    self.deleted = True

    def _check(self) -> None:
        status, said = self.status, {each.type: each.status for each in self.status.conditions}
        assert own(status, UID) is status
        assert [said["Ready"], said["Reconciling"], said["Stalled"]].count("True") == 1
        assert (said["Ready"] == "True") is (status.phase is Phase.READY)
        assert (said["Stalled"] == "True") is (status.phase in phases.FAILED)
        if status.phase is Phase.FAILED:
            assert status.expire_date_time
        if self.away:
            return
        assert {status.observed_generation} == {self.cache.metadata.generation}
        assert {each.observed_generation for each in status.conditions} == {self.cache.metadata.generation}
        # nodes refuse another document under the id that serves
        assert (said["Serving"] == "True") is (
            status.phase in assignment.SERVING and status.image_cache_id in choice.genuine(status, self.bundles)
        )
        if status.phase is Phase.READY:
            assert self.is_as_asked(), "Ready is of this generation"

    def is_as_asked(self) -> bool:
        spec = effective_spec(self.cache, architectures=("amd64",))
        return not building.difference(self.bundles[self.status.image_cache_id], spec)

    # what happens

    def edit(self, images: tuple[str, ...], days: int | None = None) -> None:
        spec, metadata = Spec(images=images, retention_days=days), self.cache.metadata
        if spec != self.cache.spec:
            metadata = msgspec.structs.replace(metadata, generation=metadata.generation + 1)
        self.cache = msgspec.structs.replace(self.cache, spec=spec, metadata=metadata)

    def annotate(self, key: str, value: str) -> None:
        keys = {name: text for name, text in self.cache.metadata.annotations.items() if name != key}
        metadata = msgspec.structs.replace(self.cache.metadata, annotations=keys | ({key: value} if value else {}))
        self.cache = msgspec.structs.replace(self.cache, metadata=metadata)

    def end(self, how: str) -> None:
        """The build that runs ends so."""
        if not isinstance(self.build, Running):
            return
        request, error = self.build.request, ENDS[how]
        if error is None and request.bundle_id in self.bundles and how != "nothing":
            error = AlreadyExists("the store has a different bundle")
        if error is not None:
            self.build = Broken(request, error)
            return
        if how != "nothing":
            images = request.images if how == "as-asked" else ("other:1",)
            made = bundle(request.bundle_id, *images, revision=request.revision, created=self.now)
            self.bundles[request.bundle_id] = made
        self.build = Ended(request)

    def lose(self) -> None:
        if self.cache.status is not None:
            self.bundles.pop(self.cache.status.image_cache_id, None)

    def set_back(self, steps: int) -> None:
        self.cache = self.cache.with_status(self.past[-min(steps, len(self.past))])

    def happens(self, what: str, how: Any) -> None:
        match what:
            case "edit":
                self.edit(*how)
            case "annotate":
                self.annotate(*how)
            case "end":
                self.end(how)
            case "lose":
                self.lose()
            case "restart":
                self.build = None
            case "away":
                self.away = how
            case "set back":
                self.set_back(how)
            case "time":
                self.now += dt.timedelta(seconds=how)
        self.look()


UNTIMED = settings(deadline=None)  # this machine may do much else


def event(what: str, *how: Any) -> st.SearchStrategy[tuple[str, Any]]:
    return st.tuples(st.just(what), st.sampled_from(how))


EVENTS = st.lists(
    st.one_of(
        event("edit", (NGINX,), (REDIS,), ((*NGINX, *REDIS),), (NONSENSE,), (NGINX, 1), (REDIS, 30)),
        event("annotate", (INSECURE, ""), (INSECURE, "x"), (REFRESH, ""), (REFRESH, "1"), (REFRESH, "2")),
        event("end", *ENDS),
        event("end", *ENDS),
        event("lose", None),
        event("restart", None),
        event("away", True, False),
        event("set back", 2, 3, 5, 8),
        event("time", 1, 5, 600),
    ),
    max_size=25,
)


def after(events: list[tuple[str, Any]]) -> World:
    world = World()
    world.look()
    for what, how in events:
        world.happens(what, how)
    world.away = False
    return world


def edited_after(events: list[tuple[str, Any]]) -> World:
    """A person asks for something else then, and builds count from there."""
    world = after(events)
    world.edit(FRESH)
    world.started = 0
    return world


def settle(world: World) -> None:
    """From now on builds end as asked."""
    for _ in range(20):
        if world.status.phase is Phase.READY:
            break
        if isinstance(world.build, Running):
            world.end("as-asked")
        # a person who sees that it has failed asks again
        decision = world.look(requested=world.build is None and world.status.phase in phases.FAILED)
        world.now += dt.timedelta(seconds=min(decision.again or 0, 600))
    assert world.status.phase is Phase.READY


@UNTIMED
@given(EVENTS)
@example([("end", "as-asked"), ("edit", (REDIS,)), ("set back", 2), ("lose", None)])
@example([("end", "as-asked"), ("lose", None), ("set back", 2)])
@example([("end", "refused"), ("set back", 2), ("set back", 2), ("end", "something-else")])
def test_a_world_that_works_leads_to_ready(events: list[tuple[str, Any]]) -> None:
    world = after(events)
    if world.cache.spec.images == NONSENSE:
        world.edit(NGINX)
    world.look()
    settle(world)

    assert world.is_as_asked()
    assert list(world.bundles) == [world.status.image_cache_id]
    assert not world.deleted


@UNTIMED
@given(EVENTS)
def test_builds_that_never_match_end(events: list[tuple[str, Any]]) -> None:
    world = edited_after(events)
    for _ in range(50):
        decision = world.look()
        world.end("something-else")
        world.now += dt.timedelta(seconds=min(decision.again or 0, 600))

    assert world.status.phase in phases.FAILED
    assert "spec.images has 'fresh:1', the bundle has 'other:1'" in world.status.reason
    assert world.started == TRIES


@settings(deadline=None, max_examples=20)
@given(EVENTS)
def test_what_passes_never_fails_and_never_expires(events: list[tuple[str, Any]]) -> None:
    world = edited_after(events)
    for _ in range(400):
        decision = world.look()
        world.end("away")
        world.now += dt.timedelta(seconds=decision.again or 0)

        assert world.status.phase in phases.UNFINISHED
        assert not world.deleted
    assert world.now - NOW > phases.FAILED_KEPT
    assert world.started > 100


@UNTIMED
@given(EVENTS)
def test_a_bundle_that_is_always_lost_is_not_built_for_ever(events: list[tuple[str, Any]]) -> None:
    world = edited_after(events)
    for _ in range(50):
        decision = world.look()
        world.end("as-asked")
        if world.status.phase is Phase.READY:
            world.lose()
        world.now += dt.timedelta(seconds=min(decision.again or 0, 600))

    assert world.status.phase in phases.FAILED
    assert world.started <= TRIES + 1


@UNTIMED
@given(EVENTS)
def test_nonsense_fails_without_a_build(events: list[tuple[str, Any]]) -> None:
    world = after(events)
    world.edit(NONSENSE)
    decision = world.look()

    assert world.status.phase in phases.FAILED
    assert world.status.reason.startswith(InvalidManifest.__name__)
    assert not any(isinstance(action, StartBuild) for action in decision.actions)
    assert world.build is None


@UNTIMED
@given(EVENTS, st.sampled_from(["a", "b"]))
def test_a_refresh_leads_to_content_that_was_built_for_it(events: list[tuple[str, Any]], value: str) -> None:
    """Whatever happened before: what serves then was built after it was asked for, and once."""
    world = edited_after(events)
    world.look()
    settle(world)
    before, world.started = world.status.image_cache_id, 0
    world.annotate(REFRESH, value)
    world.look()
    settle(world)

    assert (world.started, world.status.image_cache_id != before) == (1, True)
    world.annotate(REFRESH, "")
    world.look()
    assert (world.started, world.status.phase) == (1, Phase.READY)
