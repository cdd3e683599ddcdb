"""A controller over fakes, with its objects in a real directory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagecache.api.parse import parse
from imagecache.api.types import ImageCache
from imagecache.standalone.controller import Controller, World
from imagecache.standalone.objects import ObjectFiles
from imagecache.store.paths import StorePaths
from testkit.builder import FakeAttacher, FakeBuilder, FakeBundles, FakeCollector
from testkit.clock import FakeClock


@dataclass
class Bench:
    """The controller and everything around it."""

    controller: Controller
    objects: ObjectFiles
    builder: FakeBuilder
    bundles: FakeBundles
    collector: FakeCollector
    attacher: FakeAttacher
    clock: FakeClock


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    objects, bundles, clock = ObjectFiles(StorePaths(tmp_path / "store")), FakeBundles(), FakeClock()
    builder = FakeBuilder(bundles, {"nginx:1.25": ("base", "nginx"), "redis:7": ("base", "redis")})
    collector, attacher = FakeCollector(bundles), FakeAttacher()
    world = World(
        objects=objects,
        builder=builder,
        bundles=bundles,
        collector=collector,
        attacher=attacher,
        clock=clock,
        random=random.Random(1),
        architecture="amd64",
        record_interval=0.0,
    )
    return Bench(Controller(world), objects, builder, bundles, collector, attacher, clock)


async def eventually(condition: Callable[[], bool]) -> None:
    """Let other tasks and threads go on until it is so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10
    while loop.time() < deadline:
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never was")


def manifest(name: str = "a", *images: str, **spec: int) -> ImageCache:
    """A document of these images; keywords are fields of the spec."""
    fields = "".join(f", {key}: {value}" for key, value in spec.items())
    listed = ", ".join(f'"{image}"' for image in images or ("nginx:1.25",))
    text = f"{{apiVersion: eci.alibabacloud.com/v1, kind: ImageCache, metadata: {{name: {name}}}, "
    return parse(f"{text}spec: {{images: [{listed}]{fields}}}}}")[0].cache
