"""What waits, what fails, and what heals it: one situation a row."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from imagecache.api import phases
from imagecache.api.types import Phase, Status
from imagecache.controller.decide import LATER, SOON
from imagecache.controller.decision import (
    CONFIGURATION,
    Broken,
    DeleteBundle,
    DeleteObject,
    Ended,
    Role,
    Running,
    StartBuild,
    StopBuild,
)
from imagecache.controller.failures import BACKOFF, LONGEST, TRIES
from imagecache.errors import (
    AlreadyExists,
    DigestMismatch,
    ImageCacheError,
    InternalError,
    InvalidSetting,
    NoSpace,
    RateLimited,
    SandboxUnavailable,
    StoreCorrupt,
    StoreUnreachable,
    WorkerKilled,
)
from tests.unit.controller.situations import (
    AWAY,
    BUILD_ONE,
    BUSY,
    DAY,
    DENIED,
    DISK,
    EDITED,
    FOR_SECRETS,
    HAS_ONE,
    NO_SECRET,
    NOT_FOUND,
    NOW,
    ONE,
    REDIS,
    REFUSED,
    SECRETS,
    TOO_LARGE,
    TWO,
    A,
    Case,
    bundle,
    cache,
    condition,
    creating,
    failed,
    look,
    pending,
    ready,
    request,
    settled,
    tried,
    updating,
    waiting,
)

FIRST = BACKOFF.first
IN_FIVE = "2024-05-01T12:00:05Z"
A_DAY = DAY.total_seconds()
REGISTRY = (*SECRETS, CONFIGURATION)
CRASH = InternalError("the build process was ended by signal SIGKILL")


def set_back(status: Status, **fields: Any) -> Status:
    """As somebody else has patched it, or as it was some decisions ago."""
    return msgspec.structs.replace(status, **fields)


CASES: dict[str, Case] = {
    # a build that fails for good
    "a-failure-is-the-cache's": Case(
        cache(status=creating()),
        {"build": Broken(request(ONE, A), NOT_FOUND)},
        actions=(StopBuild(),),
        phase=Phase.FAILED,
        events=("ImageNotFound",),
        again=A_DAY,
        watches=(CONFIGURATION,),
        problem=NOT_FOUND,
        check=lambda s: (
            (condition(s, "Ready"), condition(s, "Stalled"), condition(s, "Reconciling"))
            == (("False", "ImageNotFound"), ("True", "ImageNotFound"), ("False", "ImageNotFound"))
        ),
    ),
    "failed-stays-failed": Case(
        cache(status=settled(failed(NOT_FOUND), bundles={})), again=A_DAY, watches=(CONFIGURATION,)
    ),
    "failed-is-retried-when-the-spec-changes": Case(
        EDITED.with_status(failed(NOT_FOUND)),
        actions=(StartBuild(request(ONE, EDITED)),),
        phase=Phase.PENDING,
        events=("Retrying",),
        check=lambda s: (s.progress, s.reason, s.expire_date_time) == ("0%", "", ""),
    ),
    "failed-is-retried-when-an-annotation-changes-that-the-build-was-asked-with": Case(
        cache(annotations={"k8s.aliyun.com/plain-http-registry": "docker.io"}, status=failed(NOT_FOUND)),
        actions=(replace(BUILD_ONE, request=replace(request(ONE, A), plain_http=frozenset({"docker.io"}))),),
        phase=Phase.PENDING,
        events=("Retrying",),
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
    "but-not-when-it-was-corrected-while-nobody-looked": Case(
        EDITED.with_status(failed(NOT_FOUND)),
        actions=(StartBuild(request(ONE, EDITED)),),
        phase=Phase.PENDING,
        events=("Retrying",),
        at=NOW + 2 * DAY,
    ),
    # credentials
    "without-a-secret-it-waits": Case(
        FOR_SECRETS.with_status(pending(of=FOR_SECRETS)),
        {"secrets_problem": NO_SECRET},
        phase=Phase.PENDING,
        events=("PullSecretUnavailable",),
        watches=SECRETS,
        problem=NO_SECRET,
        check=lambda s: (
            (condition(s, "Building"), condition(s, "Reconciling"))
            == (("False", "PullSecretUnavailable"), ("True", "PullSecretUnavailable"))
        ),
    ),
    "the-same-wait-is-recorded-once": Case(
        FOR_SECRETS.with_status(waiting(NO_SECRET, FOR_SECRETS)),
        {"secrets_problem": NO_SECRET},
        phase=Phase.PENDING,
        watches=SECRETS,
        problem=NO_SECRET,
    ),
    "a-secret-that-goes-meanwhile-is-what-it-waits-for": Case(
        FOR_SECRETS.with_status(waiting(AWAY, FOR_SECRETS, failures=1, next_time=IN_FIVE)),
        {"secrets_problem": NO_SECRET},
        phase=Phase.PENDING,
        events=("PullSecretUnavailable",),
        watches=SECRETS,
        check=lambda s: s.attempt == tried(FOR_SECRETS),
    ),
    "a-secret-that-comes-begins-the-build": Case(
        FOR_SECRETS.with_status(waiting(NO_SECRET, FOR_SECRETS)),
        {"secrets": "v1"},
        actions=(StartBuild(request(ONE, FOR_SECRETS)),),
        phase=Phase.PENDING,
    ),
    "what-was-refused-keeps-what-it-was-refused-with": Case(
        FOR_SECRETS.with_status(creating(of=FOR_SECRETS)),
        {"build": Broken(request(ONE, FOR_SECRETS), REFUSED, "v1"), "configuration": "c1"},
        actions=(StopBuild(),),
        phase=Phase.FAILED,
        events=("Unauthenticated",),
        again=A_DAY,
        watches=REGISTRY,
        check=lambda s: s.attempt == tried(FOR_SECRETS, secrets="v1", configuration="c1"),
    ),
    "refused-stays-with-the-same-secrets": Case(
        FOR_SECRETS.with_status(failed(REFUSED, of=FOR_SECRETS, secrets="v1")),
        {"secrets": "v1"},
        phase=Phase.FAILED,
        again=A_DAY,
        watches=REGISTRY,
    ),
    "refused-without-secrets-waits-for-the-configuration": Case(
        cache(status=failed(DENIED)), phase=Phase.FAILED, again=A_DAY, watches=(CONFIGURATION,)
    ),
    "refused-is-retried-with-other-secrets": Case(
        FOR_SECRETS.with_status(failed(REFUSED, of=FOR_SECRETS, secrets="v1")),
        {"secrets": "v2"},
        actions=(StartBuild(request(ONE, FOR_SECRETS)),),
        phase=Phase.PENDING,
        events=("Retrying",),
    ),
    "and-with-another-configuration": Case(
        cache(status=failed(NOT_FOUND, configuration="c1")),
        {"configuration": "c2"},
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
        events=("Retrying",),
    ),
    "also-what-could-not-be-read-of-it": Case(
        cache(status=failed(InvalidSetting("hosts.toml is malformed"), configuration="c1")),
        {"configuration": "c2"},
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
        events=("Retrying",),
    ),
    "but-not-while-they-cannot-be-read": Case(
        FOR_SECRETS.with_status(failed(DENIED, of=FOR_SECRETS, secrets="v1")),
        {"secrets_problem": NO_SECRET},
        phase=Phase.FAILED,
        again=A_DAY,
        watches=REGISTRY,
    ),
    "other-failures-do-not-care-for-secrets": Case(
        FOR_SECRETS.with_status(failed(TOO_LARGE, of=FOR_SECRETS)),
        {"secrets": "v2", "configuration": "c2"},
        phase=Phase.FAILED,
        again=A_DAY,
    ),
    "a-command-does-not-wait-for-a-secret": Case(
        FOR_SECRETS,
        {"secrets_problem": NO_SECRET, "role": Role.COMMAND},
        phase=Phase.FAILED,
        events=("PullSecretUnavailable",),
        again=A_DAY,
        watches=SECRETS,
        problem=NO_SECRET,
    ),
    "but-the-agent-does-after-it": Case(
        FOR_SECRETS.with_status(failed(NO_SECRET, of=FOR_SECRETS)),
        {"role": Role.HOST_AGENT},
        actions=(StartBuild(request(ONE, FOR_SECRETS)),),
        phase=Phase.PENDING,
        events=("Retrying",),
    ),
    # what passes
    "a-registry-that-is-away-is-asked-again": Case(
        FOR_SECRETS.with_status(creating(of=FOR_SECRETS)),
        {"build": Broken(request(ONE, FOR_SECRETS), AWAY, "v1"), "configuration": "c1"},
        actions=(StopBuild(),),
        phase=Phase.PENDING,
        events=("RegistryUnavailable",),
        again=FIRST,
        watches=REGISTRY,
        problem=AWAY,
        check=lambda s: (
            (s.expire_date_time, condition(s, "Stalled")[0], condition(s, "Reconciling"), s.progress)
            == ("", "False", ("True", "RegistryUnavailable"), "60%")
            and s.attempt == tried(FOR_SECRETS, failures=1, next_time=IN_FIVE, secrets="v1", configuration="c1")
        ),
    ),
    "not-before-its-time": Case(
        cache(status=settled(waiting(AWAY, failures=1, next_time=IN_FIVE), bundles={})),
        again=FIRST - 1,
        watches=(CONFIGURATION,),
        at=NOW + dt.timedelta(seconds=1),
    ),
    "but-then": Case(
        cache(status=waiting(AWAY, failures=1, next_time=IN_FIVE)),
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
        check=lambda s: s.attempt == tried(failures=1),
        at=NOW + dt.timedelta(seconds=FIRST),
    ),
    "and-at-once-when-a-person-asks": Case(
        cache(status=waiting(AWAY, failures=4, next_time=IN_FIVE)),
        {"requested": True, "role": Role.COMMAND},
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
        events=("Retrying",),
        check=lambda s: s.attempt == tried(),
    ),
    "or-when-the-spec-changes": Case(
        EDITED.with_status(waiting(AWAY, failures=4, next_time=IN_FIVE)),
        actions=(StartBuild(request(ONE, EDITED)),),
        phase=Phase.PENDING,
        check=lambda s: s.attempt == tried(EDITED),
    ),
    "or-the-configuration": Case(
        cache(status=waiting(AWAY, failures=4, next_time=IN_FIVE, configuration="c1")),
        {"configuration": "c2"},
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
    ),
    "a-time-that-is-not-ours-is-none": Case(
        cache(status=waiting(AWAY, failures=1, next_time="2024-05-01T14:00:00Z")),
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
    ),
    "an-update-serves-while-it-waits": Case(
        EDITED.with_status(updating(failures=2)),
        HAS_ONE | {"build": Broken(request(TWO, EDITED), AWAY)},
        actions=(StopBuild(),),
        phase=Phase.UPDATING,
        events=("RegistryUnavailable",),
        again=BACKOFF.pause(3),
        watches=(CONFIGURATION,),
        check=lambda s: (
            (condition(s, "Serving"), condition(s, "Ready")) == (("True", "Updating"), ("False", "RegistryUnavailable"))
        ),
    ),
    "a-command-leaves-it-to-the-agent": Case(
        cache(status=creating()),
        {"build": Broken(request(ONE, A), BUSY), "role": Role.COMMAND},
        actions=(StopBuild(),),
        phase=Phase.PENDING,
        events=("StoreBusy",),
        again=FIRST,
        problem=BUSY,
    ),
    "which-goes-on": Case(
        cache(status=waiting(BUSY, failures=1, next_time=IN_FIVE)),
        {"role": Role.HOST_AGENT},
        actions=(BUILD_ONE,),
        phase=Phase.PENDING,
        at=NOW + dt.timedelta(seconds=FIRST),
    ),
    # the store
    "a-store-that-cannot-be-read-changes-nothing-else": Case(
        cache(generation=2, status=settled(ready())),
        {"store_problem": DISK},
        phase=Phase.READY,
        again=SOON,
        problem=DISK,
        check=lambda s: (
            (condition(s, "Degraded"), condition(s, "Serving"), s.observed_generation)
            == (("True", "StoreError"), ("True", "Built"), 1)
        ),
    ),
    "what-is-not-there-yet-waits-for-it": Case(
        cache(status=creating()),
        {"store_problem": DISK},
        phase=Phase.PENDING,
        events=("StoreError",),
        again=SOON,
        check=lambda s: s.reason == "StoreError: the disk is gone",
    ),
    "what-waits-already-goes-on-to-wait": Case(
        cache(status=waiting(AWAY, failures=1, next_time=IN_FIVE)),
        {"store_problem": DISK},
        phase=Phase.PENDING,
        again=SOON,
        watches=(CONFIGURATION,),
        check=lambda s: s.reason.startswith("RegistryUnavailable"),
    ),
    "it-is-looked-at-less-often-the-longer-it-is-away": Case(
        cache(status=settled(ready(), bundles={}, store_problem=DISK)),
        {"store_problem": DISK},
        again=LATER,
        problem=DISK,
        at=NOW + DAY,
    ),
    # what nobody can be told to change
    "a-crash-is-tried-again": Case(
        cache(status=creating()),
        {"build": Broken(request(ONE, A), CRASH)},
        actions=(StopBuild(),),
        phase=Phase.PENDING,
        events=("InternalError",),
        again=FIRST,
        check=lambda s: s.attempt == tried(faults=1, next_time=IN_FIVE),
    ),
    "but-not-for-ever": Case(
        cache(status=creating(faults=TRIES - 1)),
        {"build": Broken(request(ONE, A), CRASH)},
        actions=(StopBuild(),),
        phase=Phase.FAILED,
        events=("InternalError",),
        again=A_DAY,
    ),
    "what-was-made-is-not-what-was-asked-for": Case(
        cache(status=creating()),
        {"bundles": {ONE: bundle(ONE, REDIS)}, "build": Ended(request(ONE, A))},
        actions=(StopBuild(), DeleteBundle(ONE)),
        phase=Phase.PENDING,
        events=("BuildMismatch",),
        again=FIRST,
        check=lambda s: "spec.images has 'nginx:1.25', the bundle has 'redis:7'" in s.reason,
    ),
    "and-in-the-end-it-fails-with-the-difference": Case(
        cache(status=creating(faults=TRIES - 1)),
        {"bundles": {ONE: bundle(ONE, REDIS)}, "build": Ended(request(ONE, A))},
        actions=(StopBuild(), DeleteBundle(ONE)),
        phase=Phase.FAILED,
        events=("BuildMismatch",),
        again=A_DAY,
        check=lambda s: "spec.images has 'nginx:1.25', the bundle has 'redis:7'" in s.reason,
    ),
    "in-an-update-the-old-serves-on": Case(
        EDITED.with_status(updating(faults=TRIES - 1)),
        {"bundles": {ONE: bundle(ONE), TWO: bundle(TWO)}, "build": Ended(request(TWO, EDITED))},
        actions=(StopBuild(), DeleteBundle(TWO)),
        phase=Phase.UPDATE_FAILED,
        events=("BuildMismatch",),
        check=lambda s: condition(s, "Serving") == ("True", "UpdateFailed"),
    ),
    "a-bundle-that-is-not-there-when-its-build-has-ended": Case(
        cache(status=creating()),
        {"build": Ended(request(ONE, A))},
        actions=(StopBuild(),),
        phase=Phase.PENDING,
        events=("BuildMismatch",),
        again=FIRST,
    ),
    "one-that-is-seen-later-is-taken": Case(
        cache(status=failed(TOO_LARGE)), HAS_ONE, phase=Phase.READY, events=("Retrying", "Ready")
    ),
    "a-bundle-that-is-lost-again-is-built-after-a-pause": Case(
        cache(status=set_back(settled(ready()), attempt=tried(faults=1))),
        phase=Phase.UPDATING,
        events=("Updating", "BuildMismatch"),
        again=BACKOFF.pause(2),
    ),
    "and-not-for-ever": Case(
        cache(status=set_back(settled(ready()), attempt=tried(faults=TRIES - 1))),
        phase=Phase.UPDATE_FAILED,
        events=("Updating", "BuildMismatch"),
        check=lambda s: condition(s, "Serving") == ("False", "BundleLost"),
    ),
    "what-was-long-ago-does-not-count": Case(
        cache(status=set_back(settled(ready()), attempt=tried(faults=TRIES - 1))),
        actions=(BUILD_ONE,),
        phase=Phase.UPDATING,
        events=("Updating",),
        at=NOW + DAY,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_failing(name: str) -> None:
    CASES[name].hold()


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (StoreUnreachable("away"), Phase.PENDING),
        (NoSpace("full"), Phase.PENDING),
        (StoreCorrupt("damaged"), Phase.PENDING),
        (RateLimited("slow down"), Phase.PENDING),
        (AlreadyExists("from before"), Phase.PENDING),
        (SandboxUnavailable("no seccomp here"), Phase.PENDING),
        (DigestMismatch("other bytes, twice"), Phase.FAILED),
        (WorkerKilled("layer x: was ended by SIGKILL, for the second time"), Phase.FAILED),
        (TOO_LARGE, Phase.FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ImageCacheError) else "",
)
def test_who_has_to_act_decides_what_follows(error: ImageCacheError, phase: Phase) -> None:
    found = look(cache(status=creating()), build=Broken(request(ONE, A), error)).status

    assert found is not None
    assert (found.phase, bool(found.expire_date_time)) == (phase, phase is Phase.FAILED)


def test_a_registry_may_ask_for_more_time_and_not_for_ever() -> None:
    for asked, given in ((None, FIRST), (1.0, FIRST), (90.0, 90.0), (1e9, LONGEST)):
        error = RateLimited("slow down", retry_after=asked)
        assert look(cache(status=creating()), build=Broken(request(ONE, A), error)).again == given


def test_pauses_grow_and_stay_bounded() -> None:
    status, now, pauses = creating(), NOW, []
    for _ in range(10):
        found = look(cache(status=status), now, build=Broken(request(ONE, A), AWAY))
        assert found.status is not None
        assert found.again is not None
        pauses.append(found.again)
        now += dt.timedelta(seconds=found.again)
        again = look(cache(status=found.status), now)
        assert again.actions == (BUILD_ONE,)
        assert again.status is not None
        status = again.status

    assert pauses[:3] == [5.0, 10.0, 20.0]
    assert pauses[-1] == BACKOFF.longest
    assert phases.outcome(status) == ("Started", "RegistryUnavailable: nginx:1.25: no answer")
    assert status.reason == "RegistryUnavailable: nginx:1.25: no answer", "while it is tried again, too"
    fetching = look(cache(status=status), now, build=Running(request(ONE, A), 1, 100)).status
    assert fetching is not None
    assert (fetching.reason, phases.outcome(fetching)) == ("", ("Started", ""))


def test_the_reason_of_a_secret_that_is_there_is_not_said() -> None:
    first = FOR_SECRETS.with_status(waiting(AWAY, FOR_SECRETS, failures=1, next_time=IN_FIVE))
    lacks = look(first, NOW, secrets_problem=NO_SECRET).status
    begun = look(FOR_SECRETS.with_status(lacks), NOW, secrets="v1").status
    assert begun is not None and (begun.reason, phases.outcome(begun)) == ("", ("Started", ""))  # noqa: PT018
