"""Builds as processes of their own: a crash, a leak or an attack in one is not the controller's.

The process is ours (``apps.build_process``). It limits its own memory, and ends when its stdin does, so it does not
outlive a controller that is killed. It must not know how a build works.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from imagecache.api.building import BuildRequest
from imagecache.api.pull_secrets import PullSecret
from imagecache.builder.build_events import BuildEvent
from imagecache.clock import Clock
from imagecache.controller import build_messages
from imagecache.controller.build_messages import Ended, Failed, Order
from imagecache.errors import ImageCacheError, InternalError, InvalidDigest
from imagecache.telemetry.metrics import Metrics

COMMAND = (sys.executable, "-I", "-m", "imagecache.apps.build_process")
_LINE = 1 << 20
"""Bytes of one line at most; asyncio's own bound is 64 KiB, which an error about a long path can pass."""
_STOP_SECONDS = 5.0
"""Until a process that should stop is killed; nothing is lost by that, because downloads resume by range."""


class ProcessBuilder:
    """``controller.dependencies.Builder``.

    Args:
        settings: those of the program, as flags would give them.
        metrics: count the builds and measure those that end Ready.
        clock: measures.
        docker_config: path of a docker ``config.json`` with more credentials; empty: none.
        command: starts the process.
    """

    def __init__(
        self,
        settings: dict[str, str],
        metrics: Metrics,
        clock: Clock,
        *,
        docker_config: str = "",
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._docker_config = docker_config
        self._command = command

    async def build(
        self, request: BuildRequest, credentials: Sequence[PullSecret], emit: Callable[[BuildEvent], None]
    ) -> None:
        order = Order(
            settings=self._settings,
            request=request,
            credentials=tuple(credentials),
            docker_config=self._docker_config,
        )
        start = self._clock.monotonic()
        try:
            await self._run(build_messages.encode(order), emit)
        except ImageCacheError as error:
            self._metrics.builds.labels(error.reason).inc()
            raise
        self._metrics.builds.labels("Ready").inc()
        self._metrics.build_seconds.observe(self._clock.monotonic() - start)

    async def _run(self, order: bytes, emit: Callable[[BuildEvent], None]) -> None:
        # asyncio (3.11) leaves process and pipes behind when it is cancelled in the middle of a start: that ends first
        start = asyncio.ensure_future(
            asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, limit=_LINE)
        )
        try:
            await _follow(await asyncio.shield(start), order, emit)
        finally:
            await _end(await start)


async def _follow(process: Process, order: bytes, emit: Callable[[BuildEvent], None]) -> None:
    """Hand over the order, and read until the process reports how it ended."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(order)
    with suppress(ConnectionError):  # it has ended already, and the lines that it wrote say why
        await process.stdin.drain()
    while line := await process.stdout.readline():
        match _decode(line):
            case Failed() as failed:
                raise failed.exception()
            case Ended():
                return
            case event:
                emit(event)
    raise _vanished(await process.wait())


async def _end(process: Process) -> None:
    """Closing stdin asks it to stop; it has ended when this returns."""
    if process.stdin is not None:
        process.stdin.close()
    ended = asyncio.ensure_future(process.wait())
    # not asyncio.timeout: in a task that is being cancelled, as here, it does not time out (Python 3.11.2)
    await asyncio.wait({ended}, timeout=_STOP_SECONDS)
    if not ended.done():
        process.kill()
    await ended


def _decode(line: bytes) -> build_messages.Line:
    try:
        return build_messages.decode_line(line)
    except (msgspec.DecodeError, InvalidDigest) as error:
        raise InternalError("the build process wrote a line that is not a message") from error


def _vanished(code: int) -> InternalError:
    how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return InternalError(
        f"the build process {how}",
        hint="was it killed for lack of memory? change the ImageCache, or create it again",
    )
