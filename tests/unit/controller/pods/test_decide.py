"""What follows from a pod, a verdict, the pinned cache and the time: every row of the decision."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import msgspec
import pytest

from imagecache.api.ids import derived_cache_id
from imagecache.api.parse import is_name
from imagecache.api.types import Phase
from imagecache.controller.pods.decide import (
    AGAIN,
    CATCH_UP,
    GRACE,
    NODES,
    Action,
    Annotate,
    CreateCache,
    LetGo,
    Look,
    Tell,
    Wait,
    decide,
    event_name,
    frees,
)
from imagecache.controller.pods.pod import DECODER, Pod
from imagecache.kube.node_affinity import preferring, requiring
from imagecache.match import events
from imagecache.match.index import Index
from imagecache.match.keys import AUTO, AUTO_OLD, CREATE, GATE, MATCHED, PIN, REQUIRE_NODE
from imagecache.match.pod import Condition, Status, view
from imagecache.match.verdict import match
from imagecache.match.views import CacheView, Defaults

NOW = dt.datetime(2024, 5, 1, 12, 0, 0, tzinfo=dt.UTC)
ID = derived_cache_id("uid-app")
OTHER = derived_cache_id("uid-other")


def pod(*, gated: bool = False, node: str = "", image: str = "nginx:1.25", age: float = 0.0, **keys: str) -> Pod:
    """``keys``: annotations, by name in ``NAMES``."""
    annotations = {NAMES[name]: value for name, value in keys.items()}
    created = (NOW - dt.timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata: dict[str, Any] = {"name": "web", "namespace": "default", "uid": "1", "creationTimestamp": created}
    spec: dict[str, Any] = {"containers": [{"name": "a", "image": image}], "nodeName": node}
    if gated:
        spec["schedulingGates"] = [{"name": GATE}]
    return DECODER.decode(msgspec.json.encode({"metadata": {**metadata, "annotations": annotations}, "spec": spec}))


NAMES = {"pin": PIN, "auto": AUTO, "old": AUTO_OLD, "create": CREATE, "matched": MATCHED, "require": REQUIRE_NODE}


def cache(**changes: Any) -> CacheView:
    """Ready for a minute, on the one node that it is for."""
    made = CacheView(
        name="app",
        uid="uid-app",
        id=ID,
        phase=Phase.READY,
        images=("nginx:1.25",),
        created=NOW,
        nodes=frozenset({"node-1"}),
        desired=1,
        ready=1,
        ready_since=NOW - dt.timedelta(minutes=1),
    )
    return dataclasses.replace(made, **changes)


def ready(seconds: float, *nodes: str, desired: int = 3) -> CacheView:
    since = NOW - dt.timedelta(seconds=seconds)
    return cache(nodes=frozenset(nodes), desired=desired, ready=len(nodes), ready_since=since)


def look(seen: Pod, *caches: CacheView, **changes: Any) -> tuple[Action, ...]:
    index = Index(caches)
    verdict = match(view(seen), Defaults(), index)
    asked = Look(pod=seen, verdict=verdict, now=NOW, pinned=index.caches.get(verdict.winner), nodes=3)
    return decide(dataclasses.replace(asked, **changes))


def shown(actions: tuple[Action, ...]) -> list[object]:
    """Events by their reason, everything else as it is."""
    return [action.told.reason if isinstance(action, Tell) else action for action in actions]


# held


@pytest.mark.parametrize(
    ("seen", "caches", "expected"),
    [
        # the pinned cache is on all nodes that it is for
        (pod(gated=True, pin="app"), [cache()], [LetGo(ID), events.HIT]),
        (pod(gated=True, pin=ID), [cache()], [LetGo(ID), events.HIT]),
        (pod(gated=True, pin="app"), [ready(0, "a", "b", "c")], [LetGo(ID), events.HIT]),
        (pod(gated=True, pin="app", image="other:1"), [cache()], [LetGo(ID), events.HIT]),
        # on some: after ten seconds, and those are preferred
        (pod(gated=True, pin="app"), [ready(1, "b", "a")], [Wait(1.0)]),
        (pod(gated=True, pin="app"), [ready(4, "b", "a")], [events.NOT_COMPLETE, Wait(6.0)]),
        (pod(gated=True, pin="app"), [ready(10, "b", "a")], [LetGo(ID, ("a", "b")), events.HIT]),
        (
            pod(gated=True, pin="app", require="true"),
            [ready(10, "b", "a")],
            [LetGo(ID, ("a", "b"), required=True), events.HIT],
        ),
        # content of before an update has been there for long enough
        (
            pod(gated=True, pin="app"),
            [cache(phase=Phase.UPDATING, nodes=frozenset({"a"}), desired=3, ready_since=None)],
            [LetGo(ID, ("a",)), events.HIT],
        ),
        # a clock was set back
        (pod(gated=True, pin="app"), [ready(-3600, "a")], [LetGo(ID, ("a",)), events.HIT]),
        # on none: it waits, however long
        (pod(gated=True, pin="app"), [ready(1)], [Wait(1.0)]),
        (pod(gated=True, pin="app"), [ready(600)], [events.NOT_COMPLETE, Wait(AGAIN)]),
        # there is no node that it is for: nobody is waited for, unless one is a must
        (pod(gated=True, pin="app"), [ready(4, desired=0)], [events.NOT_COMPLETE, Wait(6.0)]),
        (pod(gated=True, pin="app"), [ready(10, desired=0)], [LetGo(ID), events.HIT]),
        (pod(gated=True, pin="app", require="true"), [ready(10, desired=0)], [events.NOT_COMPLETE, Wait(AGAIN)]),
        # it is everywhere that it is for, but not on every node of the cluster
        (pod(gated=True, pin="app", require="true"), [cache()], [LetGo(ID, ("node-1",), required=True), events.HIT]),
        (pod(gated=True, pin="app", require="true"), [ready(0, "a", "b", "c")], [LetGo(ID), events.HIT]),
        # on nodes that it is for no longer, and on one of those that it is for
        (
            pod(gated=True, pin="app"),
            [dataclasses.replace(ready(0, "a", "b", "old"), ready=2)],
            [Wait(2.0)],
        ),
        # not yet, failed, going: held
        (pod(gated=True, pin="app"), [cache(phase=Phase.CREATING)], [events.NOT_COMPLETE, Wait(AGAIN)]),
        (pod(gated=True, pin="app"), [cache(phase=Phase.FAILED)], [events.NOT_COMPLETE, events.FAILED, Wait(AGAIN)]),
        # unknown: for a moment nothing is said
        (pod(gated=True, pin="nope"), [cache()], [Wait(GRACE)]),
        (pod(gated=True, pin="app"), [cache(deleted=True)], [Wait(GRACE)]),
        # there is no pin: it is matched when its node is known
        (pod(gated=True), [cache()], [LetGo()]),
        (pod(gated=True, pin=" "), [cache()], [LetGo()]),
        (pod(gated=True, matched="imc-copied"), [], [LetGo()]),
    ],
)
def test_a_held_pod(seen: Pod, caches: list[CacheView], expected: list[object]) -> None:
    assert shown(look(seen, *caches)) == expected


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (None, True),
        (cache(phase=Phase.CREATING), True),
        (ready(0, "a", "b"), False),
        (ready(0, "a", "b", "c"), True),
        (ready(CATCH_UP), False),
        (ready(CATCH_UP, "a"), True),
    ],
)
def test_whether_a_pod_may_go_that_pins_a_cache_which_has_spread(cache: CacheView | None, expected: bool) -> None:
    assert frees(cache, NOW) is expected


def test_an_unknown_cache_is_told_when_it_stays_unknown() -> None:
    seen = pod(gated=True, pin="nope")

    assert shown(look(seen, unknown_for=GRACE / 2)) == [Wait(GRACE / 2)]
    assert shown(look(seen, unknown_for=GRACE)) == [events.NOT_FOUND, Wait(AGAIN)]


@pytest.mark.parametrize("age", [0.0, 1800.0, 3599.0, 3600.0, 9000.0])
def test_what_waits_is_told_again_every_hour(age: float) -> None:
    """In the event's name, so that whoever leads then tells it once."""
    tell, wait = look(pod(gated=True, pin="app", age=age), cache(phase=Phase.CREATING))

    assert isinstance(tell, Tell)
    assert isinstance(wait, Wait)
    assert wait.seconds == AGAIN - age % AGAIN
    assert tell.name == event_name("web", "1", tell.told, int(age // AGAIN))
    later = dt.timedelta(seconds=wait.seconds)
    following, _ = look(pod(gated=True, pin="app", age=age), cache(phase=Phase.CREATING), now=NOW + later)
    assert isinstance(following, Tell)
    assert following.name != tell.name


def broken(reason: str = "ImageNotFound: no such tag", *, ago: float = 0.0) -> CacheView:
    """A cache that failed so many seconds ago."""
    return cache(phase=Phase.FAILED, id="", reason=reason, failed_since=NOW - dt.timedelta(seconds=ago))


def failures(seen: Pod, found: CacheView, **changes: Any) -> list[Tell]:
    told = [each for each in look(seen, found, **changes) if isinstance(each, Tell)]
    return [each for each in told if each.told.reason == events.FAILED]


def test_why_a_pinned_cache_has_failed_is_told_once() -> None:
    seen = pod(gated=True, pin="app")
    (first,) = failures(seen, broken())
    (later,) = failures(seen, broken("ImageNotFound: no such tag (request 2)"), now=NOW + dt.timedelta(minutes=30))
    (other,) = failures(seen, broken("AccessDenied: no"))
    (anew,) = failures(seen, dataclasses.replace(broken(), uid="another"))

    text = "[eci.imagecache]The production for specified image cache app has failed: ImageNotFound: no such tag"
    assert first.told.message == text
    assert first.name == later.name, "a failure that is repeated is no news, and a waiting pod is told of it once"
    assert len({first.name, other.name, anew.name}) == 3


@pytest.mark.parametrize(
    ("age", "ago", "told"),
    [
        (0.0, 7200.0, True),
        (7200.0, 0.0, True),
        (7200.0, AGAIN - 1, True),
        (7200.0, AGAIN, False),
        (AGAIN, AGAIN, False),
    ],
)
def test_a_failure_of_an_hour_ago_was_told(age: float, ago: float, *, told: bool) -> None:
    """To whoever was there; a restart must not tell it anew when the API server has forgotten the event."""
    assert bool(failures(pod(gated=True, pin="app", age=age), broken(ago=ago))) is told


def test_of_many_nodes_each_pod_prefers_some() -> None:
    nodes = [f"node-{number}" for number in range(200)]
    found = ready(CATCH_UP, *nodes, desired=300)
    chosen = []
    for uid in ("1", "2"):
        seen = pod(gated=True, pin="app")
        seen = msgspec.structs.replace(seen, metadata=msgspec.structs.replace(seen.metadata, uid=uid))
        action, _ = look(seen, found)
        assert isinstance(action, LetGo)
        assert action == look(seen, found)[0]
        chosen.append(action.nodes)

    assert [len(each) for each in chosen] == [NODES, NODES]
    assert chosen[0] != chosen[1]
    assert set(chosen[0]) | set(chosen[1]) <= set(nodes)


# beside other gates, in groups

GROUPS: dict[str, dict[str, Any]] = {
    "kubernetes": {"spec": {"schedulingGroup": {"podGroupName": "train"}}},
    "coscheduling": {"metadata": {"labels": {"scheduling.x-k8s.io/pod-group": "train"}}},
    "volcano": {
        "metadata": {"annotations": {"scheduling.k8s.io/group-name": "train"}},
        "spec": {"schedulerName": "volcano"},
    },
    "kueue": {
        "metadata": {"labels": {"kueue.x-k8s.io/pod-group-name": "train", "kueue.x-k8s.io/queue-name": "team"}},
        "spec": {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]},
    },
    "another-gate": {"spec": {"schedulingGates": [{"name": "example.com/quota"}]}},
}


def member(seen: Pod, kind: str, uid: str = "1") -> Pod:
    """The same pod, in a group, or with a gate of somebody else before ours."""
    found = msgspec.to_builtins(seen)
    more = GROUPS[kind]
    for part in ("labels", "annotations"):
        theirs = more.get("metadata", {}).get(part, {})
        found["metadata"][part] = (found["metadata"].get(part) or {}) | theirs
    spec = dict(more.get("spec", {}))
    gates = [*spec.pop("schedulingGates", []), *(found["spec"].pop("schedulingGates", None) or [])]
    found["spec"] |= {**spec, "schedulingGates": gates, "affinity": None}
    found["metadata"]["uid"] = uid
    return DECODER.decode(msgspec.json.encode(found))


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize(
    "found",
    [cache(phase=Phase.CREATING), ready(1), ready(CATCH_UP, "a", "b"), ready(0, "a", "b", "c")],
    ids=["builds", "nowhere", "somewhere", "everywhere"],
)
@pytest.mark.parametrize("require", ["", "true"])
def test_a_member_of_a_group_goes_when_it_would_without_the_group(kind: str, found: CacheView, require: str) -> None:
    """Our gate waits for our cache alone: one that waited for the others' gates, as they might for ours, would stay."""
    seen = pod(gated=True, pin="app", require=require)

    assert look(member(seen, kind), found) == look(seen, found)


@pytest.mark.parametrize("kind", GROUPS)
def test_what_others_hold_is_no_more_of_our_business(kind: str) -> None:
    seen = member(pod(pin="app", matched=ID), kind)

    assert look(seen, cache()) == look(seen, cache(phase=Phase.FAILED)) == look(seen) == ()


@pytest.mark.parametrize("kind", GROUPS)
def test_all_members_go_at_the_same_state_of_the_cache(kind: str) -> None:
    """A group that is scheduled together is not torn apart: none of it is let go before the others may go too."""
    members = [member(pod(gated=True, pin="app"), kind, uid) for uid in ("1", "2", "3")]
    for found in (cache(phase=Phase.CREATING), ready(1), ready(4), ready(CATCH_UP, "a"), cache()):
        gone = {isinstance(look(each, found)[0], LetGo) for each in members}
        assert len(gone) == 1


def test_a_preference_leaves_the_terms_of_a_group_as_they_are() -> None:
    """A preferred term keeps no node out, so a group that fits on the others fits still; a required one narrows."""
    zone: dict[str, Any] = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    theirs: Any = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zone]}}

    assert set(preferring(theirs, ["node-1"])) == {"preferredDuringSchedulingIgnoredDuringExecution"}
    narrowed = requiring(theirs, ["node-1"])["requiredDuringSchedulingIgnoredDuringExecution"]
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}
    assert narrowed == {"nodeSelectorTerms": [{"matchExpressions": [*zone["matchExpressions"], hostname]}]}


# bound


@pytest.mark.parametrize(
    ("seen", "caches", "expected"),
    [
        (pod(node="node-1", auto="true"), [cache()], [Annotate(ID), events.HIT]),
        (pod(node="node-1", old="true"), [cache()], [Annotate(ID), events.HIT]),
        (pod(node="node-1", pin="app"), [cache()], [Annotate(ID), events.HIT]),
        # it is written already, by us or by whoever led before
        (pod(node="node-1", auto="true", matched=ID), [cache()], [events.HIT]),
        # what the manifest carried is a lie
        (pod(node="node-1", auto="true", matched=OTHER), [cache()], [Annotate(ID), events.HIT]),
        (pod(node="node-1", matched=OTHER), [cache()], [Annotate(ID)]),
        (pod(node="node-1", matched=OTHER), [], [Annotate("")]),
        (pod(node="node-1", auto="false", matched=ID), [cache()], [Annotate("")]),
        # its node does not have it
        (pod(node="node-2", auto="true"), [cache()], [events.MISSED]),
        (pod(node="node-1", auto="true"), [cache(phase=Phase.CREATING)], [events.MISSED]),
        # nobody has written anything: not a single request
        (pod(node="node-1"), [cache()], []),
        (pod(node="node-1"), [], []),
        (pod(node="node-1", auto="false"), [cache()], []),
        # not held although it pins: it starts, and is told
        (pod(node="node-1", pin="app"), [cache(phase=Phase.CREATING)], [events.NOT_COMPLETE]),
        (pod(node="node-1", pin="app"), [cache(phase=Phase.FAILED)], [events.NOT_COMPLETE, events.FAILED]),
        (pod(node="node-1", pin="nope"), [], [Wait(GRACE)]),
        # not bound yet: there is nothing to say
        (pod(auto="true"), [cache()], []),
    ],
)
def test_a_bound_pod(seen: Pod, caches: list[CacheView], expected: list[object]) -> None:
    assert shown(look(seen, *caches)) == expected


def test_what_it_was_told_while_it_was_held_it_is_not_told_again_when_it_is_let_go_by_others() -> None:
    (held, _) = look(pod(gated=True, pin="nope"), unknown_for=GRACE)
    (bound,) = look(pod(node="node-1", pin="nope"), unknown_for=GRACE)

    assert held == bound


@pytest.mark.parametrize(("seconds", "told"), [(AGAIN - 1, [events.HIT]), (AGAIN, [])])
def test_who_has_a_node_for_long_was_told_before(seconds: float, told: list[str]) -> None:
    """The API server has forgotten the event by then, so that a restart would tell it as something new."""
    since = (NOW - dt.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    scheduled = Condition(type="PodScheduled", status="True", last_transition_time=since)
    seen = msgspec.structs.replace(pod(node="node-1", auto="true"), status=Status(conditions=(scheduled,)))

    assert shown(look(seen, cache())) == [Annotate(ID), *told]


def test_what_is_unknown_when_the_pod_starts_is_told_then() -> None:
    seen = pod(node="node-1", pin="nope", matched=OTHER)

    assert shown(look(seen)) == [Annotate(""), Wait(GRACE)]
    assert shown(look(seen, leaving=True)) == shown(look(seen, unknown_for=GRACE)) == [Annotate(""), events.NOT_FOUND]


def test_a_miss_has_a_cache_made() -> None:
    actions = look(pod(node="node-1", create="true"), cache(images=("redis:7",)))

    assert shown(actions[:-1]) == [events.MISSED]
    made = actions[-1]
    assert isinstance(made, CreateCache)
    assert made.told
    assert made.cache.images == ("docker.io/library/nginx:1.25",)


def test_names_of_events_are_names() -> None:
    told = events.missed()
    long = "a" * 229 + ".b" * 10

    assert is_name(event_name("web", "1", told))
    assert is_name(event_name(long, "1", told))
    names = {
        event_name("web", "1", told),
        event_name("web", "2", told),
        event_name("web", "1", told, 0),
        event_name("web", "1", told, 1),
        event_name("web", "1", events.hit(ID)),
    }
    assert len(names) == 5
