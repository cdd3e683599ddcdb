"""The controller of one host's ImageCaches, wired for the command line and the agent. It must not decide anything."""

from __future__ import annotations

import random

from imagecache.apps.late import LateAttacher, LateBuilder
from imagecache.apps.platform import host_platform
from imagecache.cli.application import Application
from imagecache.clock import Clock, SystemClock
from imagecache.settings.table import Settings
from imagecache.standalone.controller import Controller, World
from imagecache.standalone.objects import ObjectFiles
from imagecache.store.store import Store


def standalone_controller(store: Store, settings: Settings, clock: Clock) -> Controller:
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


class LocalApplication:
    """``cli.application.Application``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def controller(self) -> Controller:
        clock = SystemClock()
        return standalone_controller(Store.open(self._settings.store, clock), self._settings, clock)


def create_application(settings: Settings) -> Application:
    """The ``ApplicationFactory`` of the command line."""
    return LocalApplication(settings)
