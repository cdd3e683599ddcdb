"""Builds as processes of their own: a crash, a leak or an attack in one is not the controller's.

The process is ours (``apps.build_process``), bounded in memory by itself, and ends when its stdin does: so also when
the controller is killed. It must not know how a build works.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from imagecache.controller import build_messages
from imagecache.controller.build_messages import Advanced, Ended, Failed, Told
from imagecache.controller.dependencies import Job, Progress, Report
from imagecache.errors import InternalError

COMMAND = (sys.executable, "-I", "-m", "imagecache.apps.build_process")
_LINE = 1 << 20
_STOP_SECONDS = 5.0
"""Until a process that should stop is killed; nothing is lost by that."""


class ProcessBuilder:
    """``controller.dependencies.Builder``. ``settings`` are those of the program, as flags would give them."""

    def __init__(self, settings: dict[str, str], command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._command = command

    async def build(self, job: Job, report: Callable[[Report], None]) -> None:
        process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, limit=_LINE)
        try:
            await self._follow(process, build_messages.encode(build_messages.order(self._settings, job)), report)
        finally:
            await _end(process)

    async def _follow(self, process: Process, order: bytes, report: Callable[[Report], None]) -> None:
        """Hand over the order, and read until the process says how it ended."""
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(order)
        with suppress(ConnectionError):  # it ended already; the reading says so
            await process.stdin.drain()
        while line := await process.stdout.readline():
            match _decode(line):
                case Advanced(done=done, total=total):
                    report(Progress(done, total))
                case Told(event=event):
                    report(event)
                case Failed() as failed:
                    raise failed.exception()
                case Ended():
                    return
        raise _vanished(await process.wait())


async def _end(process: Process) -> None:
    """Closing stdin asks it to stop; in the end it is gone."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _decode(line: bytes) -> build_messages.Line:
    try:
        return build_messages.decode_line(line)
    except msgspec.DecodeError as error:
        raise InternalError("the build process said something that is no message") from error


def _vanished(code: int) -> InternalError:
    how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return InternalError(
        f"the build process {how}",
        hint="was it killed for lack of memory? change the ImageCache, or create it again, to build once more",
    )
