"""Fake of the program behind the commands: real controller and objects, fake builder and node."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from imagecache.settings.table import Settings
from imagecache.standalone.controller import Controller, World
from imagecache.standalone.objects import ObjectFiles
from imagecache.store.paths import StorePaths
from testkit.builder import FakeAttacher, FakeBuilder, FakeBundles, FakeCollector
from testkit.clock import FakeClock

IMAGES: Mapping[str, Sequence[str]] = {"nginx:1.25": ("base", "nginx"), "redis:7": ("base", "redis")}


class FakeApplication:
    """One program with a memory: the same object serves several commands. Also its own factory."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.bundles = FakeBundles()
        self.builder = FakeBuilder(self.bundles, IMAGES)
        self.collector = FakeCollector(self.bundles)
        self.attacher = FakeAttacher()
        self.settings = Settings()
        self._random = random.Random(1)

    def __call__(self, settings: Settings) -> FakeApplication:
        self.settings = settings
        return self

    def controller(self) -> Controller:
        return Controller(
            World(
                objects=ObjectFiles(StorePaths(self.settings.store)),
                builder=self.builder,
                bundles=self.bundles,
                collector=self.collector,
                attacher=self.attacher,
                clock=self.clock,
                random=self._random,
                architecture="amd64",
                record_interval=0.0,
            )
        )
