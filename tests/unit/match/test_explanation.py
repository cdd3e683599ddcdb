"""The explanation of a pod: the verdict again, and what controller, agent and node say about it."""

from __future__ import annotations

import pytest

from imagecache.api import ids
from imagecache.match import keys
from imagecache.match.explanation import Explanation, Held, explain
from imagecache.match.pod import read
from imagecache.match.surroundings import surroundings
from imagecache.match.views import Outcome
from tests.unit.match.documents import Object, event, image_cache, pod, report
from tests.unit.match.situations import BUSYBOX, NGINX

SCHEDULED = "2026-01-01T12:00:30Z"
BEFORE, AFTER = "2026-01-01T12:00:29Z", "2026-01-01T12:00:31Z"
NOT_COMPLETE = "[eci.imagecache]The production for specified image cache a is not yet complete."


def explained(of: Object, *around: Object, events: tuple[Object, ...] = ()) -> Explanation:
    return explain(read(of), surroundings(around, {}), events)


def bound(of: Object) -> Object:
    of["spec"]["nodeName"] = "node-1"
    of["status"] = {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": SCHEDULED}]}
    return of


def test_a_pod_that_runs() -> None:
    caches = [image_cache("a", NGINX), image_cache("b", NGINX, size=2000), image_cache("c", BUSYBOX)]
    matched = caches[0]["status"]["imageCacheId"]
    told = (
        event("ImageCacheServed", "8/8 layers from cache, 0 B pulled, 41 ms", at=AFTER),
        event("SuccessfulHitImageCache", "hit", at=SCHEDULED),
        event("Pulled", "not ours", at=SCHEDULED),
        {"reason": 5},
    )

    found = explained(
        bound(pod(NGINX, annotations={keys.MATCHED: matched})), *caches, report("node-1", *caches), events=told
    )

    assert (found.verdict.outcome, found.verdict.winner) == (Outcome.HIT, "a")
    assert (found.matched, found.matched_name) == (matched, "a")
    assert found.held == Held(now=False, before=False, why="")
    assert found.served == ("8/8 layers from cache, 0 B pulled, 41 ms",)
    assert [each.reason for each in found.events] == ["SuccessfulHitImageCache", "ImageCacheServed"]
    assert [each.name for each in found.on_node] == ["a", "b"]


def test_what_was_written_at_its_start_may_be_another_than_now() -> None:
    newer = image_cache("newer", NGINX)
    asked = pod(NGINX, annotations={keys.MATCHED: ids.derived_cache_id("uid-of-older")})

    found = explained(bound(asked), newer, report("node-1", newer))

    assert (found.matched_name, found.verdict.winner) == ("", "newer")


def test_a_node_without_an_agent_reports_nothing() -> None:
    found = explained(bound(pod(NGINX)), image_cache("a", NGINX))

    assert (found.report, found.on_node) == (None, ())
    assert found.verdict.candidates[0].why == "not on node-1"


@pytest.mark.parametrize(
    ("pin", "around", "why"),
    [
        ("a", [image_cache("a", NGINX, ready=False)], "a does not serve yet (Pending)"),
        ("b", [image_cache("a", NGINX)], "there is no cache b"),
        ("a", [image_cache("a", NGINX, nodes=(0, 3))], "a serves, and is usable on 0 of 3 nodes"),
        ("", [], "nothing is pinned, so the controller lets it go as soon as it sees it"),
    ],
)
def test_a_pod_that_is_held_says_what_it_waits_for(pin: str, around: list[Object], why: str) -> None:
    found = explained(pod(NGINX, annotations={keys.PIN: pin}, gated=True), *around)

    assert found.held == Held(now=True, before=True, why=f"its scheduling gate imagecache.dev/pinned is there: {why}")


def test_a_pod_that_was_held_was_told_so_before_it_was_scheduled() -> None:
    asked = bound(pod(NGINX, annotations={keys.PIN: "a"}))
    cache = image_cache("a", NGINX)

    held = explained(asked, cache, events=(event("ImageCacheNotComplete", NOT_COMPLETE, at=BEFORE),))
    started = explained(asked, cache, events=(event("ImageCacheNotComplete", NOT_COMPLETE, at=AFTER),))

    assert held.held == Held(now=False, before=True, why=f"until it was scheduled at {SCHEDULED}: {NOT_COMPLETE}")
    assert not started.held.before


def test_a_pin_without_a_gate_holds_nothing() -> None:
    found = explained(bound(pod(NGINX, annotations={keys.PIN: "a"})))

    assert found.held == Held(
        now=False, before=False, why="its pin is not met, but it has no scheduling gate imagecache.dev/pinned"
    )
