"""The application behind the command line, constructed for one host.

``create_application`` is what every command calls; nothing is opened before it is used. It must not decide anything.
"""

from __future__ import annotations

import random
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from imagecache.apps.platform import host_platform
from imagecache.cli.application import Application
from imagecache.clock import SystemClock
from imagecache.settings.table import Settings
from imagecache.store.store import Store

if TYPE_CHECKING:  # parts are imported when a command needs them: ``get`` starts without HTTP, gRPC and mounts
    from imagecache.apps.containerd_config import LocalContainerdConfig
    from imagecache.apps.host import LocalHost
    from imagecache.apps.host_service import LocalHostService
    from imagecache.apps.layers import LocalLayers
    from imagecache.apps.services import LocalServices
    from imagecache.host.mounter import KernelMounter
    from imagecache.standalone.controller import Controller
    from imagecache.store.check import Report

REALIGNED = Path("/var/lib/imagecache-realigned")
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
        from imagecache.erofs.realign import realign
        from imagecache.host.mounter import KernelMounter

        return KernelMounter(realign=realign, copies=REALIGNED)

    def controller(self) -> Controller:
        from imagecache.apps.late import LateAttacher, LateBuilder
        from imagecache.standalone.controller import Controller, World
        from imagecache.standalone.objects import ObjectFiles

        store, settings, clock = self._store, self._settings, self._clock
        return Controller(
            World(
                objects=ObjectFiles(store.paths),
                builder=LateBuilder(store, settings, clock),
                bundles=store.bundles,
                collector=store,
                attacher=LateAttacher(store, settings, clock),
                clock=clock,
                random=random.SystemRandom(),
                architecture=host_platform().architecture,
            )
        )

    def layers(self) -> LocalLayers:
        from imagecache.apps.layers import LocalLayers

        return LocalLayers()

    def check(self, *, deep: bool, quarantine: bool) -> Report:
        layers = self.layers()
        return self._store.check(
            deep=deep, verify=lambda path: layers.verify(path, None).diff_id, quarantine=quarantine
        )

    def host(self) -> LocalHost:
        from imagecache.apps.host import LocalHost

        return LocalHost(self._settings, self._clock, self._mounter)

    def containerd_config(self) -> LocalContainerdConfig:
        from imagecache.apps.containerd_config import LocalContainerdConfig

        return LocalContainerdConfig(self._settings, self._clock)

    def host_service(self) -> LocalHostService:
        from imagecache.apps.host_service import LocalHostService

        return LocalHostService(self._settings, self._clock)

    def services(self) -> LocalServices:
        from imagecache.apps.services import LocalServices

        return LocalServices(self._store, self._settings, self._clock, self._mounter, self.controller)


def create_application(settings: Settings) -> Application:
    """The ``ApplicationFactory`` of the command line."""
    return LocalApplication(settings)
