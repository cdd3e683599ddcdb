"""Fake of the program behind the commands: real controller and objects, fake builder, node and layers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from imagecache.cli.application import (
    Check,
    ConfigChange,
    ConfigReport,
    HostLeft,
    HostOptions,
    LayerBuilt,
    LayerEntry,
    LayerExported,
    LayerVerified,
    Mounted,
    Severity,
)
from imagecache.digest import DiffID, Digest
from imagecache.errors import DigestMismatch, NotFound, ServiceManagerMissing
from imagecache.settings.table import Settings
from imagecache.standalone.controller import Controller, World
from imagecache.standalone.objects import ObjectFiles
from imagecache.store.check import Report
from imagecache.store.paths import StorePaths
from testkit.builder import FakeAttacher, FakeBuilder, FakeBundles, FakeCollector
from testkit.clock import FakeClock

IMAGES: Mapping[str, Sequence[str]] = {"nginx:1.25": ("base", "nginx"), "redis:7": ("base", "redis")}


class FakeLayerTool:
    """A "layer image" is the tar itself, so that build and export are each other's reverse."""

    def build(self, source: BinaryIO, output: Path, lower: Sequence[Path]) -> LayerBuilt:
        data = source.read()
        output.write_bytes(data)
        digest = Digest.sha256(data)
        return LayerBuilt(DiffID(digest), digest, len(data), len(data), 1, context_dependent=bool(lower))

    def verify(self, file: Path, diff_id: DiffID | None) -> LayerVerified:
        digest = Digest.sha256(file.read_bytes())
        if diff_id is not None and diff_id != digest:
            raise DigestMismatch(f"{file} has diffID {digest}, not {diff_id}", hint="build it again")
        return LayerVerified(DiffID(digest), digest, file.stat().st_size, 1)

    def export(self, file: Path, output: BinaryIO) -> LayerExported:
        data = file.read_bytes()
        if data == b"damaged":
            output.write(b"half")
            raise DigestMismatch(f"{file} is damaged")
        output.write(data)
        return LayerExported(DiffID(Digest.sha256(data)), len(data))

    def entries(self, file: Path) -> Iterator[LayerEntry]:
        del file
        yield LayerEntry("etc", 0o40755, 0, 0, 0, 0)
        yield LayerEntry("etc/link", 0o120777, 0, 0, 0, 0, target="../etc\x1b[2J")
        yield LayerEntry("etc/gone", 0o20000, 0, 0, 0, 0)


@dataclass
class FakeHost:
    checks: Sequence[Check] = (Check("kernel", "erofs", Severity.OK, "mounts files directly"),)
    mounted: dict[Path, str] = field(default_factory=dict)

    def mount(self, image: str, directory: Path) -> Mounted:
        if image not in IMAGES:
            raise NotFound(f"no Ready cache has the image {image}", hint="list them with 'imagecache get'")
        self.mounted[directory] = image
        return Mounted(image, "imc-00000000000000000000", 2, directory)

    def unmount(self, directory: Path) -> None:
        if self.mounted.pop(directory, None) is None:
            raise NotFound(f"nothing of ours is mounted at {directory}")

    async def doctor(self) -> Sequence[Check]:
        return self.checks


@dataclass
class FakeContainerdConfig:
    path: Path

    def text(self) -> str:
        return "version = 2\n"

    def install(self) -> ConfigReport:
        return ConfigReport([ConfigChange(self.path, "created")], restart_needed=True)

    def undo(self) -> ConfigReport:
        return ConfigReport([ConfigChange(self.path, "unchanged")], restart_needed=False)


@dataclass
class FakeHostTool:
    """``gone``: the DaemonSet; ``keep`` ends at once, as with SIGTERM."""

    calls: list[tuple[str, HostOptions]] = field(default_factory=list)
    left: HostLeft = field(default_factory=lambda: HostLeft(()))
    gone: bool = False
    checks: Sequence[Check] = (Check("host", "agent", Severity.OK, "answers"),)
    missing: bool = False
    """No service manager runs here."""
    withdrawn: bool = False

    def install(self, options: HostOptions) -> Sequence[ConfigChange]:
        self.calls.append(("install", options))
        if self.missing:
            raise ServiceManagerMissing("everything is in place", hint="start it")
        return [ConfigChange(Path("/opt/imagecache/current"), "created")]

    def uninstall(self, options: HostOptions) -> HostLeft:
        self.calls.append(("uninstall", options))
        if self.missing:
            raise ServiceManagerMissing("containerd must be restarted", hint="restart it")
        return self.left

    def status(self, options: HostOptions) -> Sequence[Check]:
        self.calls.append(("status", options))
        return self.checks

    async def keep(self, options: HostOptions) -> None:
        self.calls.append(("keep", options))
        raise asyncio.CancelledError

    async def removed(self) -> bool:
        return self.gone

    async def withdraw(self) -> None:
        self.withdrawn = True


@dataclass
class FakeServices:
    started: list[str] = field(default_factory=list)

    async def agent(self) -> None:
        self.started.append("agent")
        await asyncio.Event().wait()

    async def controller(self) -> None:
        self.started.append("controller")
        await asyncio.Event().wait()

    async def snapshotter(self) -> None:
        self.started.append("snapshotter")


class FakeApplication:
    """One program with a memory: the same object serves several commands. Also its own factory."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.bundles = FakeBundles()
        self.builder = FakeBuilder(self.bundles, IMAGES)
        self.collector = FakeCollector(self.bundles)
        self.attacher = FakeAttacher()
        self.tool = FakeLayerTool()
        self.machine = FakeHost()
        self.hosted = FakeHostTool()
        self.running = FakeServices()
        self.report = Report()
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

    def layers(self) -> FakeLayerTool:
        return self.tool

    def check(self, *, deep: bool, quarantine: bool) -> Report:
        del deep, quarantine
        return self.report

    def host(self) -> FakeHost:
        return self.machine

    def containerd_config(self) -> FakeContainerdConfig:
        return FakeContainerdConfig(self.settings.containerd_config)

    def host_service(self) -> FakeHostTool:
        return self.hosted

    def services(self) -> FakeServices:
        return self.running
