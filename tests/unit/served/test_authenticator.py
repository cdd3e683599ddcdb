from __future__ import annotations

import asyncio

import pytest

from imagecache.errors import KubernetesUnavailable
from imagecache.served.authenticator import Authenticator, AuthenticatorSettings, Caller, Refused
from testkit.clock import FakeClock
from testkit.served import AGENT, TableReviewer


@pytest.fixture
def reviewer() -> TableReviewer:
    return TableReviewer({"good": Caller(AGENT)})


@pytest.fixture
def authenticator(reviewer: TableReviewer, clock: FakeClock) -> Authenticator:
    return Authenticator(reviewer, clock, AuthenticatorSettings(frozenset({AGENT}), tokens=3))


async def status(authenticator: Authenticator, token: str) -> int:
    try:
        await authenticator.authenticate(f"Bearer {token}")
    except Refused as refused:
        return refused.status
    return 200


async def test_an_answer_is_kept_for_a_while(
    authenticator: Authenticator, reviewer: TableReviewer, clock: FakeClock
) -> None:
    assert [await status(authenticator, "good") for _ in range(3)] == [200] * 3
    assert reviewer.asked == ["good"]

    reviewer.users.clear()
    clock.advance(59.9)
    assert await status(authenticator, "good") == 200
    clock.advance(0.2)
    assert await status(authenticator, "good") == 401


async def test_a_token_that_becomes_valid_is_soon_admitted(
    authenticator: Authenticator, reviewer: TableReviewer, clock: FakeClock
) -> None:
    assert [await status(authenticator, "new") for _ in range(3)] == [401] * 3
    assert reviewer.asked == ["new"]

    reviewer.users["new"] = Caller(AGENT)
    clock.advance(5.1)
    assert await status(authenticator, "new") == 200


async def test_one_review_for_many_requests_at_once(authenticator: Authenticator, reviewer: TableReviewer) -> None:
    found = await asyncio.gather(*(status(authenticator, "good") for _ in range(50)))

    assert found == [200] * 50
    assert reviewer.asked == ["good"]


async def test_only_so_many_tokens_are_remembered(authenticator: Authenticator, reviewer: TableReviewer) -> None:
    for number in range(10):
        await status(authenticator, f"bad-{number}")
    reviewer.asked.clear()

    await status(authenticator, "bad-9")
    assert reviewer.asked == []
    await status(authenticator, "bad-0")
    assert reviewer.asked == ["bad-0"]


async def test_a_failed_review_is_not_remembered(authenticator: Authenticator, reviewer: TableReviewer) -> None:
    reviewer.problem = KubernetesUnavailable("no answer")
    with pytest.raises(KubernetesUnavailable):
        await authenticator.authenticate("Bearer good")

    reviewer.problem = None
    assert await status(authenticator, "good") == 200


async def test_one_who_leaves_does_not_disturb_the_others(
    authenticator: Authenticator, reviewer: TableReviewer
) -> None:
    waiting = [asyncio.create_task(status(authenticator, "good")) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()

    assert await waiting[1] == 200
    assert reviewer.asked == ["good"]
