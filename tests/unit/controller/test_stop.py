"""What a controller writes at its end: as the leader what it still knows, and nothing once it has lost the lease."""

from __future__ import annotations

import asyncio

import pytest

from imagecache.api.types import Phase
from imagecache.apps.controller import work
from imagecache.errors import LeadershipLost

from .conftest import Bench, manifest


async def ready(bench: Bench) -> None:
    bench.start()
    await bench.create(manifest())
    await bench.phase(Phase.READY)
    await bench.kill()
    bench.controller.matched("a", bench.clock.now(), 3)


async def test_a_leader_that_is_stopped_writes_what_it_knows(bench: Bench) -> None:
    await ready(bench)
    working = asyncio.create_task(work(bench.controller, asyncio.sleep(1000)))
    await asyncio.sleep(0)
    working.cancel()

    with pytest.raises(asyncio.CancelledError):
        await working
    assert (await bench.status()).matches == 3


async def test_one_that_has_lost_the_lease_writes_nothing(bench: Bench) -> None:
    await ready(bench)

    async def lost() -> None:
        raise LeadershipLost("another controller leads")

    with pytest.raises(LeadershipLost):
        await work(bench.controller, lost(), asyncio.sleep(1000))
    assert (await bench.status()).matches == 0


async def test_an_api_server_that_does_not_answer_holds_up_no_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(bench)
    monkeypatch.setattr("imagecache.apps.controller._FLUSH", 0.01)
    monkeypatch.setattr(bench.kube, "patch", lambda *_, **__: asyncio.sleep(1000))
    working = asyncio.create_task(work(bench.controller, asyncio.sleep(1000)))
    await asyncio.sleep(0)
    working.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(working), 5)
