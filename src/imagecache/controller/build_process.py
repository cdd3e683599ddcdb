"""Builds as processes of their own: a crash, a leak or an attack in one is not the controller's.

The process is ours (``apps.build_process``). It limits its own memory. It must not know how a build works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from imagecache.api.building import BuildRequest
from imagecache.api.pull_secrets import PullSecret
from imagecache.builder.build_events import BuildEvent
from imagecache.clock import Clock
from imagecache.controller import build_messages, child
from imagecache.controller.build_messages import Ended, Failed, Order
from imagecache.errors import ImageCacheError, InternalError, InvalidDigest
from imagecache.telemetry.metrics import Metrics

PROGRAM = child.Command.of_module("imagecache.apps.build_process")


class ProcessBuilder:
    """``controller.dependencies.Builder``.

    Args:
        settings: those of the program, as flags would give them.
        metrics: count the builds and measure those that end Ready.
        clock: measures.
        docker_config: path of a docker ``config.json`` with more credentials; empty: none.
        discreet: whoever reads a status may not learn from it what answers at an address that he has named.
        starter: of the processes.
    """

    def __init__(
        self,
        settings: dict[str, str],
        metrics: Metrics,
        clock: Clock,
        *,
        docker_config: str = "",
        discreet: bool = False,
        starter: child.Starter = PROGRAM,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._docker_config = docker_config
        self._discreet = discreet
        self._starter = starter

    async def build(
        self, request: BuildRequest, credentials: Sequence[PullSecret], emit: Callable[[BuildEvent], None]
    ) -> None:
        order = Order(
            settings=self._settings,
            request=request,
            credentials=tuple(credentials),
            docker_config=self._docker_config,
            discreet=self._discreet,
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
        async with child.ordered(self._starter, order, "build") as lines:
            async for line in lines:
                match _decode(line):
                    case Failed() as failed:
                        raise failed.exception()
                    case Ended():
                        return
                    case event:
                        emit(event)


def _decode(line: bytes) -> build_messages.Line:
    try:
        return build_messages.decode_line(line)
    except (msgspec.DecodeError, InvalidDigest) as error:
        raise InternalError("the build process wrote a line that is not a message") from error
