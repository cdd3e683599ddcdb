"""One situation a row, and what follows from it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from imagecache.api import building, phases
from imagecache.api.ids import derived_cache_id
from imagecache.api.nodes import CacheState
from imagecache.api.types import ImageCache, NodeCounts, Phase, Spec, Status
from imagecache.controller.decide import RECHECK, SOON, decide
from imagecache.controller.decision import (
    Action,
    AddFinalizer,
    Broken,
    DeleteBundle,
    DeleteObject,
    ObservedState,
    RemoveFinalizer,
    Role,
    Running,
    StartBuild,
    StopBuild,
)
from imagecache.errors import (
    ImageCacheError,
)
from tests.unit.controller.situations import (
    BUSY,
    DAY,
    DENIED,
    DISK,
    NGINX,
    NO_SECRET,
    NONSENSE,
    NOT_FOUND,
    NOW,
    ONE,
    PULLING,
    REDIS,
    REFUSED,
    SECRETS,
    TWO,
    UID,
    A,
    bundle,
    cache,
    condition,
    creating,
    failed,
    node,
    pending,
    ready,
    request,
    settled,
    update_failed,
    updating,
)


@dataclass(frozen=True)
class Case:
    """A cache and what is observed, and what follows: by default, nothing at all."""

    cache: ImageCache
    observed: dict[str, Any] = field(default_factory=dict)
    """Fields of ``ObservedState``."""
    actions: tuple[Action, ...] = ()
    phase: Phase | None = None
    """None: the status is the very same object."""
    id: str = ONE
    events: tuple[str, ...] = ()
    again: float | None = None
    problem: ImageCacheError | None = None
    check: Callable[[Status], object] = lambda _status: True
    """What else is true of the status."""
    at: dt.datetime = NOW


HAS_ONE = {"bundles": {ONE: bundle(ONE)}}
EDITED = cache(REDIS, generation=2)
FOR_SECRETS = cache(secrets=SECRETS)
BUILD_ONE = StartBuild(request(ONE, A))
BUILD_TWO = StartBuild(request(TWO, EDITED))
ARM64 = {"k8s.aliyun.com/imc-cpu-arch": "arm64"}
BOTH = {"k8s.aliyun.com/imc-cpu-arch": "arm64,amd64"}

CASES: dict[str, Case] = {
    # the first look
    "new-is-built": Case(
        cache(finalizers=()),
        actions=(AddFinalizer(), BUILD_ONE),
        phase=Phase.PENDING,
        check=lambda s: s.progress == "0%",
    ),
    "its-notes-are-recorded-once": Case(
        cache(annotations={"k8s.aliyun.com/eip-isp": "BGP"}),
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
        events=("Noted",),
    ),
    "a-bundle-that-exists-is-taken": Case(A, HAS_ONE, phase=Phase.READY, events=("Ready",)),
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
        cache(REDIS, generation=2, status=creating()),
        {"build": Running(request(ONE, A), 60, 100)},
        actions=(StopBuild(), StartBuild(request(ONE, EDITED))),
        phase=Phase.CREATING,
        check=lambda s: s.progress == "0%",
    ),
    "what-was-built-for-an-earlier-spec-is-deleted": Case(
        cache(REDIS, generation=2, status=creating()),
        HAS_ONE,
        actions=(DeleteBundle(ONE), StartBuild(request(ONE, EDITED))),
        phase=Phase.CREATING,
    ),
    "the-end-of-a-build-is-its-bundle": Case(
        cache(status=creating()), HAS_ONE, phase=Phase.READY, events=("Ready",), check=lambda s: s.progress == "100%"
    ),
    # a build that fails
    "a-failure-is-the-cache's": Case(
        cache(status=creating()),
        {"build": Broken(request(ONE, A), NOT_FOUND)},
        actions=(StopBuild(),),
        phase=Phase.FAILED,
        events=("ImageNotFound",),
        again=DAY.total_seconds(),
        problem=NOT_FOUND,
        check=lambda s: condition(s, "Ready") == ("False", "ImageNotFound"),
    ),
    "failed-stays-failed": Case(cache(status=settled(failed(NOT_FOUND))), HAS_ONE, again=DAY.total_seconds()),
    "failed-is-retried-when-the-spec-changes": Case(
        cache(REDIS, generation=2, status=failed(NOT_FOUND)),
        actions=(StartBuild(request(ONE, EDITED)),),
        phase=Phase.PENDING,
        events=("Retrying",),
        check=lambda s: (s.progress, s.reason, s.expire_date_time) == ("0%", "", ""),
    ),
    "failed-is-retried-when-a-person-asks": Case(
        cache(status=failed(NOT_FOUND)),
        {"requested": True},
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
        events=("Retrying",),
        check=lambda s: s.progress == "60%",
    ),
    "failed-expires-after-a-day": Case(
        cache(status=failed(NOT_FOUND)),
        actions=(DeleteObject(),),
        phase=Phase.FAILED,
        events=("Expired",),
        again=SOON,
        at=NOW + DAY,
    ),
    # credentials
    "without-a-secret-it-waits": Case(
        cache(secrets=SECRETS, status=pending()),
        {"secrets_problem": NO_SECRET},
        phase=Phase.PENDING,
        events=("PullSecretUnavailable",),
        again=SOON,
        problem=NO_SECRET,
        check=lambda s: condition(s, "Building") == ("False", "PullSecretUnavailable"),
    ),
    "the-same-wait-is-recorded-once": Case(
        cache(
            secrets=SECRETS,
            status=phases.waiting(pending(), 1, NOW, reason=NO_SECRET.reason, message=building.explain(NO_SECRET)),
        ),
        {"secrets_problem": NO_SECRET},
        phase=Phase.PENDING,
        again=SOON,
        problem=NO_SECRET,
    ),
    "refused-is-looked-at-again": Case(
        cache(secrets=SECRETS, status=failed(REFUSED)), phase=Phase.FAILED, again=RECHECK
    ),
    "refused-without-secrets-is-not": Case(cache(status=failed(DENIED)), phase=Phase.FAILED, again=DAY.total_seconds()),
    "refused-is-retried-with-other-secrets": Case(
        cache(secrets=SECRETS, status=failed(REFUSED)),
        {"secrets_changed": True},
        actions=(StartBuild(request(ONE, FOR_SECRETS)),),
        phase=Phase.PENDING,
        events=("Retrying",),
    ),
    "but-not-while-they-cannot-be-read": Case(
        cache(secrets=SECRETS, status=failed(DENIED)),
        {"secrets_changed": True, "secrets_problem": NO_SECRET},
        phase=Phase.FAILED,
        again=RECHECK,
    ),
    "other-failures-do-not-care-for-secrets": Case(
        cache(secrets=SECRETS, status=failed(NOT_FOUND)),
        {"secrets_changed": True},
        phase=Phase.FAILED,
        again=DAY.total_seconds(),
    ),
    "a-command-does-not-wait-for-a-secret": Case(
        cache(secrets=SECRETS),
        {"secrets_problem": NO_SECRET, "role": Role.COMMAND},
        phase=Phase.FAILED,
        events=("PullSecretUnavailable",),
        again=DAY.total_seconds(),
        problem=NO_SECRET,
    ),
    "a-secret-that-was-missing-begins-the-build": Case(
        cache(secrets=SECRETS, status=failed(NO_SECRET)),
        {"role": Role.HOST_AGENT},
        actions=(StartBuild(request(ONE, FOR_SECRETS)),),
        phase=Phase.PENDING,
        events=("Retrying",),
    ),
    # the store
    "a-busy-bundle-is-waited-for": Case(
        cache(status=creating()),
        {"build": Broken(request(ONE, A), BUSY)},
        actions=(StopBuild(),),
        phase=Phase.PENDING,
        events=("StoreBusy",),
        again=SOON,
        problem=BUSY,
    ),
    "but-not-by-a-command": Case(
        cache(status=creating()),
        {"build": Broken(request(ONE, A), BUSY), "role": Role.COMMAND},
        actions=(StopBuild(),),
        phase=Phase.FAILED,
        events=("StoreBusy",),
        again=DAY.total_seconds(),
        problem=BUSY,
    ),
    "a-store-that-cannot-be-read-changes-nothing-else": Case(
        cache(status=ready()),
        {"store_problem": DISK},
        phase=Phase.READY,
        again=SOON,
        problem=DISK,
        check=lambda s: condition(s, "Degraded") == ("True", "StoreError"),
    ),
    # ready
    "ready-is-left-alone": Case(cache(status=settled(ready())), HAS_ONE),
    "another-retention-builds-nothing": Case(
        msgspec.structs.replace(
            cache(generation=2, status=settled(ready())), spec=Spec(images=(NGINX,), retention_days=2)
        ),
        HAS_ONE,
        phase=Phase.READY,
        again=2 * DAY.total_seconds(),
        check=lambda s: s.expire_date_time == "2024-05-03T12:00:00Z",
    ),
    "ready-expires": Case(
        cache(status=ready(retention_days=1)),
        HAS_ONE,
        actions=(DeleteObject(),),
        phase=Phase.READY,
        events=("Expired",),
        again=SOON,
        at=NOW + DAY,
    ),
    "a-lost-bundle-is-built-again-under-its-id": Case(
        cache(status=settled(ready())),
        actions=(BUILD_ONE,),
        phase=Phase.UPDATING,
        events=("Updating",),
        check=lambda s: condition(s, "Ready") == ("True", "Updating"),
    ),
    "an-architecture-that-is-named-counts": Case(
        cache(generation=2, status=ready(), annotations=ARM64),
        HAS_ONE,
        actions=(StartBuild(request(TWO, cache(annotations=ARM64))),),
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
        cache(generation=2, status=settled(ready())),
        {"bundles": {ONE: bundle(ONE, architectures=("amd64", "arm64"))}},
        phase=Phase.READY,
    ),
    "images-for-several-platforms-are-what-is-asked-for": Case(
        cache(generation=2, status=settled(ready()), annotations=BOTH),
        {"bundles": {ONE: bundle(ONE, architectures=("amd64", "arm64"))}},
        phase=Phase.READY,
    ),
    # updates
    "an-edit-is-built-beside-the-old": Case(
        cache(REDIS, generation=2, status=ready()),
        HAS_ONE,
        actions=(BUILD_TWO,),
        phase=Phase.UPDATING,
        events=("Updating",),
    ),
    "the-new-replaces-the-old": Case(
        cache(REDIS, generation=2, status=updating()),
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
        actions=(
            DeleteBundle(TWO),
            StartBuild(request(derived_cache_id(UID, 3), cache(REDIS, NGINX, generation=3))),
        ),
        phase=Phase.UPDATING,
    ),
    "what-served-before-goes-also-when-the-switch-was-the-last-thing-that-happened": Case(
        cache(REDIS, generation=2, status=ready(2, TWO, REDIS)),
        {"bundles": {ONE: bundle(ONE), TWO: bundle(TWO, REDIS)}},
        actions=(DeleteBundle(ONE),),
        id=TWO,
        phase=Phase.READY,
    ),
    "a-failed-update-keeps-the-old": Case(
        cache(REDIS, generation=2, status=updating()),
        HAS_ONE | {"build": Broken(request(TWO, EDITED), NOT_FOUND)},
        actions=(StopBuild(),),
        phase=Phase.UPDATE_FAILED,
        events=("ImageNotFound",),
        problem=NOT_FOUND,
        check=lambda s: condition(s, "Degraded") == ("True", "UpdateFailed") and not s.expire_date_time,
    ),
    "a-failed-update-is-retried-when-a-person-asks": Case(
        cache(REDIS, generation=2, status=update_failed(NOT_FOUND)),
        HAS_ONE | {"requested": True},
        actions=(BUILD_TWO,),
        phase=Phase.UPDATING,
        events=("Retrying",),
    ),
    "a-failed-update-taken-back-is-ready-at-once": Case(
        cache(generation=3, status=update_failed(NOT_FOUND)),
        HAS_ONE,
        actions=(StopBuild(),),
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
        cache(status=failed(NONSENSE)), {"malformed": NONSENSE}, phase=Phase.FAILED, again=DAY.total_seconds()
    ),
    "a-corrected-annotation-is-enough": Case(
        cache(status=failed(NONSENSE)), actions=(BUILD_ONE,), phase=Phase.PENDING, events=("Retrying",)
    ),
    # deletion
    "a-deleted-object-takes-its-bundles-along": Case(
        cache(generation=2, status=ready(), deletion_timestamp="2024-05-01T12:00:00Z"),
        HAS_ONE,
        actions=(StopBuild(), DeleteBundle(ONE), DeleteBundle(TWO), RemoveFinalizer()),
    ),
    "and-is-not-ours-any-longer-then": Case(
        cache(status=ready(), finalizers=("theirs",), deletion_timestamp="x"), actions=(StopBuild(),)
    ),
    # nodes
    "nodes-are-counted": Case(
        cache(status=settled(ready()), annotations={"imagecache.dev/node-selector": "pool=gpu"}),
        HAS_ONE
        | {
            "nodes": (
                node("one", CacheState.READY, {"pool": "gpu"}),
                node("two", CacheState.FAILED, {"pool": "gpu"}),
                node("three", CacheState.READY, {"pool": "cpu"}),
            )
        },
        phase=Phase.READY,
        check=lambda s: (
            s.nodes == NodeCounts(desired=2, ready=1, failed=1) and condition(s, "Degraded") == ("True", "NodesFailed")
        ),
    ),
    "the-last-node-is-an-event": Case(
        cache(status=settled(ready())),
        HAS_ONE | {"nodes": (node("one", CacheState.READY, {}),)},
        phase=Phase.READY,
        events=("NodesReady",),
    ),
    "an-earlier-bundle-does-not-count": Case(
        cache(status=settled(ready())),
        HAS_ONE | {"nodes": (node("one", CacheState.READY, {}, TWO),)},
        phase=Phase.READY,
        check=lambda s: s.nodes == NodeCounts(desired=1),
    ),
    "a-host-has-what-it-was-told-to": Case(
        cache(status=settled(ready()), annotations={"imagecache.dev/node-selector": "pool=gpu"}),
        HAS_ONE | {"nodes": (node("_host", CacheState.READY, None),)},
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
        cache(REDIS, generation=2, status=updating()),
        HAS_ONE | {"role": Role.HOST_AGENT},
        phase=Phase.UPDATING,
    ),
    "but-takes-the-bundle-of-one-that-was-killed-late": Case(
        cache(status=creating()), HAS_ONE | {"role": Role.HOST_AGENT}, phase=Phase.READY, events=("Ready",)
    ),
    "and-updates-what-was-edited": Case(
        cache(REDIS, generation=2, status=ready()),
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
        cache(REDIS, generation=2, status=creating()),
        {"role": Role.COMMAND, "requested": True},
        actions=(StartBuild(request(ONE, EDITED)),),
        phase=Phase.PENDING,
        check=lambda s: s.progress == "0%",
    ),
    "attach-and-detach-build-nothing": Case(
        cache(REDIS, generation=2, status=failed(REFUSED)),
        {"role": Role.NODE, "secrets_changed": True},
        phase=Phase.FAILED,
        again=DAY.total_seconds(),
    ),
    "nor-for-a-lost-bundle": Case(
        cache(status=ready()),
        {"role": Role.NODE, "nodes": (node("_host", CacheState.FAILED, None),)},
        phase=Phase.READY,
        check=lambda s: s.nodes == NodeCounts(desired=1, failed=1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_decide(name: str) -> None:
    case = CASES[name]

    found = decide(case.cache, ObservedState(**({"architectures": ("amd64",)} | case.observed)), case.at)

    assert found.actions == case.actions
    assert tuple(each.reason for each in found.events) == case.events
    assert found.again == case.again
    if case.problem is not None:
        assert found.problem is case.problem
    if case.phase is None:
        assert found.status is case.cache.status
    else:
        assert found.status is not None
        assert (found.status.phase, found.status.image_cache_id) == (case.phase, case.id)
        assert case.check(found.status)
