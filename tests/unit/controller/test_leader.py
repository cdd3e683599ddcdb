"""Leader election with two candidates, a clock that the test moves, and an API server that fails."""

from __future__ import annotations

import pytest

from imagecache.controller.leader import LEASE, RENEW, RETRY, Leader
from imagecache.errors import KubernetesError, KubernetesUnavailable, LeadershipLost, ObjectConflict
from imagecache.kube import objects
from imagecache.kube.resources import LEASES, Resource
from testkit.clock import FakeClock
from testkit.kube import FakeKube


class Slept(Exception):
    """A candidate waits: the test goes on."""


class Election:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kube = FakeKube(self.clock)
        self.sleeps = 0

    def leader(self, identity: str, sleeps: int = 0) -> Leader:
        """Sleeps so many times, each moving the clock, then raises Slept."""
        left = sleeps

        async def sleep(seconds: float) -> None:
            nonlocal left
            if not left:
                raise Slept
            left -= 1
            self.clock.advance(seconds)

        return Leader(self.kube, self.clock, "imagecache", identity, sleep=sleep)

    async def holder(self) -> str:
        return objects.text(
            await self.kube.get(LEASES, "imagecache-controller", namespace="imagecache"), "spec", "holderIdentity"
        )


@pytest.fixture
def election() -> Election:
    return Election()


async def test_the_first_one_leads(election: Election) -> None:
    await election.leader("one").acquire()

    lease = await election.kube.get(LEASES, "imagecache-controller", namespace="imagecache")
    assert lease["spec"] == {
        "holderIdentity": "one",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 0,
        "acquireTime": "2024-05-01T12:00:00.000000Z",
        "renewTime": "2024-05-01T12:00:00.000000Z",
    }


async def test_the_second_one_waits_as_long_as_the_first_renews(election: Election) -> None:
    one, two = election.leader("one", sleeps=100), election.leader("two")
    await one.acquire()
    for _ in range(20):
        with pytest.raises(Slept):
            await two.acquire()
        election.clock.advance(LEASE - 1)
        assert await one._try()

    assert await election.holder() == "one"


async def test_the_second_one_leads_when_the_first_is_silent(election: Election) -> None:
    await election.leader("one").acquire()
    two = election.leader("two", sleeps=int(LEASE / RETRY) + 1)
    await two.acquire()

    assert await election.holder() == "two"
    lease = await election.kube.get(LEASES, "imagecache-controller", namespace="imagecache")
    assert objects.at(lease, "spec", "leaseTransitions") == 1


async def test_a_released_lease_is_taken_at_once(election: Election) -> None:
    one = election.leader("one")
    await one.acquire()
    await one.release()
    await election.leader("two").acquire()

    assert await election.holder() == "two"


async def test_a_leader_renews(election: Election) -> None:
    one = election.leader("one", sleeps=50)
    await one.acquire()

    with pytest.raises(Slept):
        await one.keep()
    assert await election.holder() == "one"


async def test_a_leader_that_was_replaced_stops(election: Election) -> None:
    one = election.leader("one", sleeps=50)
    await one.acquire()
    await election.kube.patch(
        LEASES, "imagecache-controller", {"spec": {"holderIdentity": "two"}}, namespace="imagecache"
    )

    with pytest.raises(LeadershipLost):
        await one.keep()
    await one.release()
    assert await election.holder() == "two"


async def test_a_leader_that_cannot_renew_stops_before_others_may_lead(election: Election) -> None:
    one = election.leader("one", sleeps=50)
    await one.acquire()
    started = election.clock.monotonic()
    election.kube.failure = lambda *_: KubernetesUnavailable("down")

    with pytest.raises(LeadershipLost):
        await one.keep()
    assert RENEW <= election.clock.monotonic() - started < LEASE
    await one.release()


async def test_a_short_silence_of_the_api_server_is_survived(election: Election) -> None:
    one = election.leader("one", sleeps=20)
    await one.acquire()
    failures = 3

    def fail(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        nonlocal failures
        failures -= 1
        return KubernetesUnavailable(f"{verb} {resource.plural} {name}") if failures >= 0 else None

    election.kube.failure = fail
    with pytest.raises(Slept):
        await one.keep()


async def test_whoever_writes_later_does_not_lead(election: Election) -> None:
    await election.leader("one").acquire()
    two = election.leader("two", sleeps=int(LEASE / RETRY) + 1)
    conflicts = 1

    def conflict(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        nonlocal conflicts
        if verb == "patch" and conflicts:
            conflicts -= 1
            return ObjectConflict(f"{resource.plural} {name}")
        return None

    election.kube.failure = conflict
    with pytest.raises(Slept):
        await two.acquire()
    assert await election.holder() == "one"
