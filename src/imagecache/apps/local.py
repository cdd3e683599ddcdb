"""The application behind the command line, constructed for one host.

``create_application`` is what every command calls; nothing is opened before it is used. It must not decide anything.
"""

from __future__ import annotations

import random
from functools import cached_property
from pathlib import Path

from imagecache.apps.attach import LocalAttacher
from imagecache.apps.build import StoreBuilder
from imagecache.apps.containerd_config import LocalContainerdConfig
from imagecache.apps.host import LocalHost
from imagecache.apps.layers import LocalLayers
from imagecache.apps.platform import host_platform
from imagecache.apps.services import LocalServices
from imagecache.cli.application import Application
from imagecache.cli.settings import Settings
from imagecache.clock import SystemClock
from imagecache.erofs.relay import relay
from imagecache.node.mounter import KernelMounter
from imagecache.standalone.controller import Controller, World
from imagecache.standalone.objects import ObjectFiles
from imagecache.store.store import Store

RELAID = Path("/var/lib/imagecache-relaid")
"""Copies with 4096-byte blocks, for kernels that need them; of this host alone, so never in a shared store."""


class LocalApplication:
    """``cli.application.Application``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = SystemClock()

    @cached_property
    def _store(self) -> Store:
        return Store.open(self._settings.store, self._clock)

    @cached_property
    def _mounter(self) -> KernelMounter:
        return KernelMounter(relay=relay, copies=RELAID)

    def controller(self) -> Controller:
        store, settings, clock = self._store, self._settings, self._clock
        return Controller(
            World(
                objects=ObjectFiles(store.paths),
                builder=StoreBuilder(store, settings, clock),
                snapshots=store.snapshots,
                collector=store,
                attacher=LocalAttacher(store, settings, clock),
                clock=clock,
                random=random.SystemRandom(),
                architecture=host_platform().architecture,
            )
        )

    def layers(self) -> LocalLayers:
        return LocalLayers()

    def host(self) -> LocalHost:
        return LocalHost(self._store, self._settings, self._mounter)

    def containerd_config(self) -> LocalContainerdConfig:
        return LocalContainerdConfig(self._settings, self._clock)

    def services(self) -> LocalServices:
        return LocalServices(self._store, self._settings, self._clock, self._mounter, self.controller)


def create_application(settings: Settings) -> Application:
    """The ``ApplicationFactory`` of the command line."""
    return LocalApplication(settings)
