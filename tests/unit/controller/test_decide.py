"""One situation a row, and what follows from it. What waits, fails and heals is in ``test_failing``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imagecache.api.nodes import CacheState
from imagecache.api.types import NodeCounts, Phase
from imagecache.controller.decide import SOON
from imagecache.controller.decision import (
    CONFIGURATION,
    AddFinalizer,
    Broken,
    DeleteBundle,
    DeleteObject,
    Ended,
    RemoveFinalizer,
    Role,
    Running,
    StartBuild,
    StopBuild,
)
from imagecache.controller.node_index import FewNodes
from tests.unit.controller.situations import (
    BUILD_ONE,
    BUILD_TWO,
    DAY,
    EDITED,
    HAS_ONE,
    NGINX,
    NONSENSE,
    NOT_FOUND,
    NOW,
    ONE,
    PULLING,
    REDIS,
    REFUSED,
    THREE,
    TWO,
    A,
    Case,
    bundle,
    cache,
    condition,
    creating,
    failed,
    look,
    node,
    pending,
    ready,
    ready_with,
    request,
    settled,
    update_failed,
    updating,
)

ARM: dict[str, str] = {"k8s.aliyun.com/imc-cpu-arch": "arm64"}
BOTH = {"k8s.aliyun.com/imc-cpu-arch": "arm64,amd64"}
FOR_BOTH = bundle(ONE, architectures=("amd64", "arm64"))
FOR_ARM = request(TWO, cache(annotations=ARM))

CASES: dict[str, Case] = {
    # the first look
    "new-is-built": Case(
        cache(finalizers=()),
        actions=(AddFinalizer(), BUILD_ONE),
        phase=Phase.PENDING,
        check=lambda s: (s.progress, s.observed_generation) == ("0%", 1),
    ),
    "its-notes-are-recorded-once": Case(
        cache(annotations={"k8s.aliyun.com/eip-isp": "BGP"}),
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
        events=("Noted",),
    ),
    "a-note-about-a-later-annotation-is-recorded-too": Case(
        cache(annotations={"k8s.aliyun.com/imc-cpu-arhc": "arm64"}, status=settled(ready())),
        HAS_ONE,
        phase=Phase.READY,
        events=("Noted",),
        check=lambda s: (
            look(cache(annotations={"k8s.aliyun.com/imc-cpu-arhc": "arm64"}, status=s), **HAS_ONE).status is s
        ),
    ),
    "a-bundle-that-exists-is-taken": Case(A, HAS_ONE, phase=Phase.READY, events=("Ready",)),
    "what-is-unusual-about-its-image-is-noted": Case(
        A,
        {"bundles": {ONE: bundle(ONE, notes=("will not pull without the cache: why",))}},
        phase=Phase.READY,
        events=("Noted", "Ready"),
        check=lambda s: s.events[0].message == f"{NGINX}: will not pull without the cache: why",
    ),
    # while it is built
    "running-is-followed": Case(
        cache(status=pending()),
        {"build": Running(request(ONE, A), 30, 100)},
        phase=Phase.CREATING,
        check=lambda s: s.progress == "30%",
    ),
    "progress-never-goes-back": Case(
        cache(status=creating()),
        {"build": Running(request(ONE, A), 30, 100)},
        phase=Phase.CREATING,
        check=lambda s: s.progress == "60%",
    ),
    "its-events-are-recorded": Case(
        cache(status=creating()),
        {"build": Running(request(ONE, A), 60, 100), "events": (PULLING,)},
        phase=Phase.CREATING,
        events=("Pulling",),
        check=lambda s: s.events == (PULLING,),
    ),
    "an-interrupted-build-goes-on": Case(cache(status=creating()), actions=(BUILD_ONE,), phase=Phase.CREATING),
    "an-edit-while-it-is-built-stops-it": Case(
        EDITED.with_status(creating()),
        {"build": Running(request(ONE, A), 60, 100)},
        actions=(StopBuild(), StartBuild(request(ONE, EDITED))),
        phase=Phase.CREATING,
        check=lambda s: s.progress == "0%",
    ),
    "what-was-built-for-an-earlier-spec-is-deleted": Case(
        EDITED.with_status(creating()),
        HAS_ONE,
        actions=(DeleteBundle(ONE), StartBuild(request(ONE, EDITED))),
        phase=Phase.CREATING,
    ),
    "the-end-of-a-build-is-its-bundle": Case(
        cache(status=creating()),
        HAS_ONE | {"build": Ended(request(ONE, A))},
        actions=(StopBuild(),),
        phase=Phase.READY,
        events=("Ready",),
        check=lambda s: s.progress == "100%",
    ),
    # ready
    "ready-is-left-alone": Case(cache(status=settled(ready())), HAS_ONE),
    "what-is-not-the-content-builds-nothing": Case(
        cache(NGINX, generation=2, annotations={"k8s.aliyun.com/insecure-registry": "x"}, status=settled(ready())),
        HAS_ONE,
        phase=Phase.READY,
        check=lambda s: s.observed_generation == 2 and {each.observed_generation for each in s.conditions} == {2},
    ),
    "nor-does-it-write-anything-when-no-generation-is-new": Case(
        cache(annotations={"k8s.aliyun.com/insecure-registry": "x"}, status=settled(ready())), HAS_ONE
    ),
    "nor-does-the-order-of-the-images": Case(
        cache(REDIS, NGINX, generation=2, status=ready(1, ONE, NGINX, REDIS)),
        {"bundles": {ONE: bundle(ONE, NGINX, REDIS)}},
        phase=Phase.READY,
    ),
    "ready-expires": Case(
        cache(days=1, status=ready(retention_days=1)),
        HAS_ONE,
        actions=(DeleteObject(),),
        phase=Phase.READY,
        events=("Expired",),
        again=SOON,
        at=NOW + DAY,
    ),
    "a-retention-that-is-added-builds-nothing-and-is-said": Case(
        cache(generation=2, days=2, status=settled(ready())),
        HAS_ONE,
        phase=Phase.READY,
        events=("WillExpire",),
        again=2 * DAY.total_seconds(),
        check=lambda s: s.expire_date_time == "2024-05-03T12:00:00Z",
    ),
    "and-counts-from-then-also-when-the-cache-is-old": Case(
        cache(generation=2, days=2, status=settled(ready())),
        HAS_ONE,
        phase=Phase.READY,
        events=("WillExpire",),
        again=2 * DAY.total_seconds(),
        check=lambda s: s.expire_date_time == "2024-06-02T12:00:00Z",
        at=NOW + 30 * DAY,
    ),
    "one-that-was-there-counts-from-when-its-content-is": Case(
        cache(days=1, status=creating()),
        HAS_ONE,
        phase=Phase.READY,
        events=("Ready",),
        again=DAY.total_seconds(),
        check=lambda s: s.expire_date_time == "2024-05-03T13:00:00Z",
        at=NOW + DAY + DAY / 24,  # it has waited for a Secret
    ),
    "one-that-is-taken-back-is-no-expiry": Case(
        cache(generation=2, status=ready(retention_days=1)),
        HAS_ONE,
        phase=Phase.READY,
        events=("WillNotExpire",),
        check=lambda s: (s.expire_date_time, s.retention_days) == ("", 0),
        at=NOW + DAY,
    ),
    "a-lost-bundle-is-built-again-under-its-id": Case(
        cache(status=settled(ready())),
        actions=(BUILD_ONE,),
        phase=Phase.UPDATING,
        events=("Updating",),
        check=lambda s: (
            (condition(s, "Ready"), condition(s, "Serving")) == (("False", "Updating"), ("False", "BundleLost"))
        ),
    ),
    "an-architecture-that-is-named-counts": Case(
        cache(generation=2, status=ready(), annotations=ARM),
        HAS_ONE,
        actions=(StartBuild(FOR_ARM),),
        phase=Phase.UPDATING,
        events=("Updating",),
    ),
    "also-in-the-same-generation-for-annotations-are-in-none": Case(
        cache(status=settled(ready()), annotations=ARM),
        HAS_ONE,
        actions=(StartBuild(FOR_ARM),),
        phase=Phase.UPDATING,
        events=("Updating",),
    ),
    "an-architecture-of-a-new-node-counts": Case(
        cache(generation=2, status=ready()),
        HAS_ONE | {"architectures": ("amd64", "arm64")},
        actions=(StartBuild(replace(request(TWO, cache(annotations=BOTH)), complete=False)),),
        phase=Phase.UPDATING,
        events=("Updating",),
    ),
    "an-architecture-of-nodes-that-are-gone-does-not": Case(
        cache(generation=2, status=settled(ready_with(FOR_BOTH), bundles={ONE: FOR_BOTH})),
        {"bundles": {ONE: FOR_BOTH}},
        phase=Phase.READY,
    ),
    "images-for-several-platforms-are-what-is-asked-for": Case(
        cache(generation=2, status=settled(ready_with(FOR_BOTH), bundles={ONE: FOR_BOTH}), annotations=BOTH),
        {"bundles": {ONE: FOR_BOTH}},
        phase=Phase.READY,
    ),
    # updates
    "an-edit-is-built-beside-the-old": Case(
        EDITED.with_status(ready()),
        HAS_ONE,
        actions=(BUILD_TWO,),
        phase=Phase.UPDATING,
        events=("Updating",),
        check=lambda s: (
            (condition(s, "Ready"), condition(s, "Serving")) == (("False", "Updating"), ("True", "Updating"))
        ),
    ),
    "the-new-replaces-the-old": Case(
        EDITED.with_status(updating()),
        {"bundles": {ONE: bundle(ONE), TWO: bundle(TWO, REDIS)}},
        actions=(DeleteBundle(ONE),),
        phase=Phase.READY,
        id=TWO,
        events=("Ready",),
    ),
    "an-edit-taken-back-keeps-the-old": Case(
        cache(generation=3, status=updating()),
        HAS_ONE | {"build": Running(request(TWO, EDITED), 30, 100)},
        actions=(StopBuild(),),
        phase=Phase.READY,
        events=("Ready",),
    ),
    "what-an-earlier-edit-built-is-deleted": Case(
        cache(REDIS, NGINX, generation=3, status=updating()),
        {"bundles": {ONE: bundle(ONE), TWO: bundle(TWO, REDIS)}},
        actions=(DeleteBundle(TWO), StartBuild(request(THREE, cache(REDIS, NGINX)))),
        phase=Phase.UPDATING,
    ),
    "what-served-before-goes-also-when-the-switch-was-the-last-thing-that-happened": Case(
        EDITED.with_status(ready(2, TWO, REDIS)),
        {"bundles": {ONE: bundle(ONE), TWO: bundle(TWO, REDIS)}},
        actions=(DeleteBundle(ONE),),
        id=TWO,
        phase=Phase.READY,
    ),
    "a-failed-update-keeps-the-old": Case(
        EDITED.with_status(updating()),
        HAS_ONE | {"build": Broken(request(TWO, EDITED), NOT_FOUND)},
        actions=(StopBuild(),),
        phase=Phase.UPDATE_FAILED,
        events=("ImageNotFound",),
        watches=(CONFIGURATION,),
        problem=NOT_FOUND,
        check=lambda s: (
            (condition(s, "Ready"), condition(s, "Serving"), condition(s, "Degraded"))
            == (("False", "ImageNotFound"), ("True", "UpdateFailed"), ("True", "UpdateFailed"))
            and not s.expire_date_time
        ),
    ),
    "a-failed-update-is-retried-when-a-person-asks": Case(
        EDITED.with_status(update_failed(NOT_FOUND)),
        HAS_ONE | {"requested": True},
        actions=(BUILD_TWO,),
        phase=Phase.UPDATING,
        events=("Retrying",),
    ),
    "a-failed-update-taken-back-is-ready-at-once": Case(
        cache(generation=3, status=update_failed(NOT_FOUND)),
        HAS_ONE,
        phase=Phase.READY,
        events=("Retrying", "Ready"),
    ),
    # what cannot be built
    "nonsense-fails-at-once": Case(
        cache(*(f"i{number}" for number in range(21)), status=pending()),
        {"build": Running(request(ONE, A))},
        actions=(StopBuild(),),
        phase=Phase.FAILED,
        events=("InvalidManifest",),
        again=DAY.total_seconds(),
        check=lambda s: condition(s, "Ready") == ("False", "InvalidManifest"),
    ),
    "nonsense-keeps-old-content": Case(
        cache(status=ready()),
        HAS_ONE | {"malformed": NONSENSE},
        actions=(StopBuild(),),
        phase=Phase.UPDATE_FAILED,
        events=("InvalidManifest",),
        problem=NONSENSE,
    ),
    "the-same-nonsense-is-recorded-once": Case(
        cache(generation=2, status=failed(NONSENSE)),
        {"malformed": NONSENSE},
        phase=Phase.FAILED,
        again=DAY.total_seconds(),
        check=lambda s: s.observed_generation == 2,
    ),
    "a-corrected-annotation-is-enough": Case(
        cache(status=failed(NONSENSE)), actions=(BUILD_ONE,), phase=Phase.PENDING, events=("Retrying",)
    ),
    # deletion
    "a-deleted-object-takes-its-bundles-along": Case(
        cache(generation=2, status=updating(), deletion_timestamp="2024-05-01T12:00:00Z"),
        {"bundles": {THREE: bundle(THREE)}},
        actions=(StopBuild(), DeleteBundle(THREE), DeleteBundle(ONE), DeleteBundle(TWO), RemoveFinalizer()),
    ),
    "and-is-not-ours-any-longer-then": Case(
        cache(status=ready(), finalizers=("theirs",), deletion_timestamp="x"), actions=(StopBuild(),)
    ),
    # nodes
    "nodes-are-counted": Case(
        cache(status=settled(ready()), annotations={"imagecache.dev/node-selector": "pool=gpu"}),
        HAS_ONE
        | {
            "nodes": FewNodes(
                (
                    node("one", CacheState.READY, {"pool": "gpu"}),
                    node("two", CacheState.FAILED, {"pool": "gpu"}),
                    node("three", CacheState.READY, {"pool": "cpu"}),
                )
            )
        },
        phase=Phase.READY,
        check=lambda s: (
            s.nodes == NodeCounts(desired=2, ready=1, failed=1) and condition(s, "Degraded") == ("True", "NodesFailed")
        ),
    ),
    "the-last-node-is-an-event": Case(
        cache(status=settled(ready())),
        HAS_ONE | {"nodes": FewNodes((node("one", CacheState.READY, {}),))},
        phase=Phase.READY,
        events=("NodesReady",),
    ),
    "an-earlier-bundle-does-not-count": Case(
        cache(status=settled(ready())),
        HAS_ONE | {"nodes": FewNodes((node("one", CacheState.READY, {}, TWO),))},
        phase=Phase.READY,
        check=lambda s: s.nodes == NodeCounts(desired=1),
    ),
    "a-host-has-what-it-was-told-to": Case(
        cache(status=settled(ready()), annotations={"imagecache.dev/node-selector": "pool=gpu"}),
        HAS_ONE | {"nodes": FewNodes((node("_host", CacheState.READY, None),))},
        phase=Phase.READY,
        events=("NodesReady",),
        check=lambda s: s.nodes == NodeCounts(desired=1, ready=1),
    ),
    "and-has-no-counts-before": Case(
        cache(status=ready()), HAS_ONE | {"nodes": None}, phase=Phase.READY, check=lambda s: s.nodes is None
    ),
    # a host without Kubernetes
    "its-agent-begins-nothing-that-a-person-interrupted": Case(
        cache(status=settled(creating(), role=Role.HOST_AGENT, bundles={})), {"role": Role.HOST_AGENT}
    ),
    "nor-an-update-that-a-person-interrupted": Case(
        EDITED.with_status(updating()),
        HAS_ONE | {"role": Role.HOST_AGENT},
        phase=Phase.UPDATING,
    ),
    "but-takes-the-bundle-of-one-that-was-killed-late": Case(
        cache(status=creating()), HAS_ONE | {"role": Role.HOST_AGENT}, phase=Phase.READY, events=("Ready",)
    ),
    "and-updates-what-was-edited": Case(
        EDITED.with_status(ready()),
        HAS_ONE | {"role": Role.HOST_AGENT},
        actions=(BUILD_TWO,),
        phase=Phase.UPDATING,
        events=("Updating",),
    ),
    "a-command-goes-on-with-what-was-interrupted": Case(
        cache(status=creating()),
        {"role": Role.COMMAND, "requested": True},
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
        check=lambda s: (s.progress, s.start_time) == ("60%", "2024-05-02T12:00:00Z"),
        at=NOW + DAY,
    ),
    "and-from-the-start-when-it-was-edited": Case(
        EDITED.with_status(creating()),
        {"role": Role.COMMAND, "requested": True},
        actions=(StartBuild(request(ONE, EDITED)),),
        phase=Phase.PENDING,
        check=lambda s: s.progress == "0%",
    ),
    "attach-and-detach-build-nothing-and-observe-no-generation": Case(
        EDITED.with_status(failed(REFUSED)),
        {"role": Role.NODE, "secrets": "other"},
        phase=Phase.FAILED,
        again=DAY.total_seconds(),
        watches=(CONFIGURATION,),
        check=lambda s: s.observed_generation == 0,
    ),
    "nor-for-a-lost-bundle": Case(
        cache(status=ready()),
        {"role": Role.NODE, "nodes": FewNodes((node("_host", CacheState.FAILED, None),))},
        phase=Phase.READY,
        check=lambda s: s.nodes == NodeCounts(desired=1, failed=1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_decide(name: str) -> None:
    CASES[name].hold()
