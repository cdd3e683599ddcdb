"""A command meets another process that works on its cache."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

from tests.unit.plain_host.bench import Bench, manifest


async def test_a_command_waits_while_the_agent_attaches(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.host.create(manifest("a"), attach=False)

    with ExitStack() as agent:
        agent.enter_context(bench.files.claimed("a"))
        ends = threading.Timer(0.7, agent.pop_all().close)
        ends.start()
        attached = await bench.host.attach("a")
    ends.join()

    assert list(attached.images) == ["docker.io/library/nginx:1.25"]
