"""A cache whose first build a command could not finish: the agent builds and attaches it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from testkit.images import busybox_image, tar_of
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode
from testkit.peers.registry import Registry

pytestmark = pytest.mark.peers


async def test_what_a_command_could_not_build_the_agent_builds_and_attaches(directory: Path, pause: str) -> None:
    files = tar_of({"srv": None, "srv/told": b"from the cache"})
    with Registry(directory / "registry") as registry, CachingNode(directory / "node", sandbox_image=pause) as node:
        image = registry.push("team/app:1", busybox_image(directory / "image", files))
        registry.stop()
        done = node.try_command("create", "--registry-retries", "0", "-f", node.manifest("cache", [image]))
        assert done.returncode, done.stdout
        assert "Pending" in node.command("get", "cache")

        registry.start()
        async with Cri(node.address) as cri:
            for _ in range(600):
                if await cri.image_status(image) is not None:
                    break
                await asyncio.sleep(0.1)
            registry.stop()
            assert await cri.run(image, ["cat", "/srv/told"]) == "from the cache"
        assert re.search("^Attached: *yes$", node.command("describe", "cache"), re.MULTILINE)
