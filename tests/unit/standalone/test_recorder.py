"""What happens while a build goes on and its object cannot be written."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from imagecache.api.types import ImageCache, Phase, Status
from imagecache.errors import NoSpace
from imagecache.standalone.objects import ObjectFiles
from imagecache.standalone.recorder import Recorder
from imagecache.store.paths import StorePaths
from testkit.clock import FakeClock

from .conftest import eventually, manifest


class FullDisk(ObjectFiles):
    """On which ``free`` says whether there is room."""

    def __init__(self, paths: StorePaths) -> None:
        super().__init__(paths)
        self.free = False
        self.refused = 0

    def put(self, cache: ImageCache) -> None:
        if not self.free:
            self.refused += 1
            raise NoSpace("no space left on device")
        super().put(cache)


@pytest.fixture
def objects(tmp_path: Path) -> FullDisk:
    return FullDisk(StorePaths(tmp_path / "store"))


def recorder(objects: FullDisk) -> Recorder:
    cache = manifest("a").with_status(Status(phase=Phase.CREATING, progress="0%"))
    return Recorder(objects, cache, FakeClock(), interval=0.0)


async def _one_event(recorder: Recorder, objects: FullDisk) -> None:
    async with recorder as record:
        record.event("Pulling", "image")
        await eventually(lambda: objects.refused > 0)


async def test_a_full_disk_is_said_once_and_by_whoever_waits(objects: FullDisk) -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unheard.append(context))
    with pytest.raises(NoSpace):
        await _one_event(recorder(objects), objects)
    gc.collect()

    assert unheard == []


async def test_room_that_comes_back_is_used(objects: FullDisk) -> None:
    async with recorder(objects) as record:
        record.event("Pulling", "one")
        await eventually(lambda: objects.refused > 0)
        objects.free = True
        record.event("Pulling", "two")
        await eventually(lambda: objects.find("a") is not None)

    assert len(objects.get("a").status.events) == 2  # type: ignore[union-attr]
