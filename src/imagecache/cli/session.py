"""One run of the command line: its settings, its environment, its output.

Tests construct an ``Environment`` of their own. What is printed may be anyone's text, and terminals obey control
characters: none is printed. It must not know any command.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO, TypeVar

from imagecache.clock import Clock, SystemClock
from imagecache.errors import ImageCacheError, Interrupted
from imagecache.settings.choices import LogLevel
from imagecache.settings.load import load
from imagecache.settings.table import Settings
from imagecache.written import printable

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from imagecache.apps.cluster_documents import Cluster, OpenCluster
    from imagecache.plain_host.verbs import PlainHost

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Environment:
    """What commands use of the process's surroundings."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    open_host: Callable[[Settings, Clock], PlainHost] | None = None
    """Opens what the verbs on ImageCaches work with. None: the real one, imported when a command needs it."""
    open_cluster: OpenCluster | None = None
    """Opens the Kubernetes API. None: the real one."""
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Session:
    environment: Environment
    settings: Settings

    @classmethod
    def open(
        cls, environment: Environment, flags: Mapping[str, str | None], config_file: str | None, *, service: bool
    ) -> Session:
        """Read the settings and configure the log. ``service``: runs until SIGTERM. Raises InvalidSetting."""
        from imagecache.telemetry import log

        settings = load(flags, environment.environ, config_file)
        level = settings.log_level
        if level is LogLevel.AUTO:
            level = LogLevel.INFO if service else LogLevel.WARNING
        log.configure(log_format=settings.log_format.value, level=level.value)
        return cls(environment, settings)

    @property
    def clock(self) -> Clock:
        return self.environment.clock

    def host(self) -> PlainHost:
        """The ImageCaches of this host, for these settings. Raises StoreError."""
        if self.environment.open_host is not None:
            return self.environment.open_host(self.settings, self.clock)
        from imagecache.apps.plain_host import open_plain_host

        return open_plain_host(self.settings, self.clock)

    def cluster(self) -> AbstractAsyncContextManager[Cluster]:
        """The Kubernetes API, for these settings. Entering it raises InvalidSetting."""
        if self.environment.open_cluster is not None:
            return self.environment.open_cluster(self.settings)
        from imagecache.apps.cluster_documents import open_cluster

        return open_cluster(self.settings)


def run(work: Coroutine[object, object, T]) -> T:
    """Run until it ends; SIGINT and SIGTERM cancel it. Raises Interrupted when they did."""

    async def supervised() -> T:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        if task is not None:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, task.cancel)  # so that every finally runs
        return await work

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError as error:
        raise Interrupted("stopped") from error


def say(text: str, *, mark: str = "") -> None:
    """Print one line of the result on stdout, whole: programs read it. ``mark`` comes before it, with its colour."""
    sys.stdout.write(f"{mark}{printable(text, sys.maxsize)}\n")
    sys.stdout.flush()  # a pipe would buffer the lines of a running build


def note(text: str) -> None:
    """Print a remark that is not part of the result, on stderr."""
    sys.stderr.write(f"{paint('note:', '33', sys.stderr)} {printable(text)}\n")


def report(error: ImageCacheError) -> None:
    """Print an error and its hint on stderr."""
    sys.stderr.write(f"{paint('error:', '31', sys.stderr)} {printable(str(error))}\n")
    if error.hint:
        sys.stderr.write(f"{paint('hint:', '36', sys.stderr)} {printable(error.hint)}\n")


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in an ANSI colour on a terminal, unless NO_COLOR is set (no-color.org)."""
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"
