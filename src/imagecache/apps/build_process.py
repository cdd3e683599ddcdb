"""One build in a process of its own, for the controller: the order on stdin, lines of progress on stdout.

``python -I -m imagecache.apps.build_process``; ``controller.build_process`` starts it. No new
privileges, no core dumps, a bound on memory; layers are parsed by workers below it. Ends when stdin does. It must not
outlive its controller.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from imagecache.api import building
from imagecache.apps.build import build_bundle
from imagecache.builder.build_events import Advanced, BuildEvent, Planned
from imagecache.clock import SystemClock
from imagecache.controller import build_messages
from imagecache.controller.build_messages import Ended, Failed, Line, Order, Told
from imagecache.errors import ImageCacheError, InternalError
from imagecache.privileges import restrict_process
from imagecache.registry.docker_config import parse_docker_config_json
from imagecache.settings.load import load
from imagecache.store.store import Store
from imagecache.telemetry import log

MEMORY = 2 << 30
"""Bytes of data (RLIMIT_DATA) of this process and of each worker."""
INTERVAL = 0.2
"""Seconds between two lines of progress."""

Send = Callable[[Line], None]


class Reporter:
    """Build events as lines, at a bounded rate; the last progress before an end is always sent."""

    def __init__(self, clock: SystemClock, send: Send) -> None:
        self._clock = clock
        self._send = send
        self._sent = -INTERVAL
        self._held: build_messages.Advanced | None = None

    def on(self, event: BuildEvent) -> None:
        if isinstance(event, Planned | Advanced):
            self._held = build_messages.Advanced(event.done, event.total)
            if self._clock.monotonic() - self._sent >= INTERVAL:
                self.flush()
        told = building.status_event(event, self._clock.now())
        if told is not None:
            self._send(Told(told))

    def flush(self) -> None:
        if self._held is not None:
            self._send(self._held)
            self._held, self._sent = None, self._clock.monotonic()


async def run(order: Order, send: Send) -> None:
    """Build, and say how it ended. Cancelled when stdin ends."""
    settings, clock = load(dict(order.settings), {}), SystemClock()
    log.configure(log_format=settings.log_format.value, level="warning")
    job, reporter = order.job(), Reporter(clock, send)
    try:
        credentials = [parse_docker_config_json(secret.config, f"secret {secret.name}") for secret in job.secrets]
        store = await asyncio.to_thread(Store.open, settings.store, clock)
        await build_bundle(store, settings, clock, job.request, credentials, reporter.on)
    except ImageCacheError as error:
        send(Failed.of(error))
    else:
        reporter.flush()
        send(Ended())


async def supervise(order: Order, send: Send) -> None:
    """``run`` until it ends or the controller is gone."""
    task = asyncio.create_task(run(order, send))

    def readable() -> None:
        if not os.read(0, 4096):
            task.cancel()
            asyncio.get_running_loop().remove_reader(0)

    asyncio.get_running_loop().add_reader(0, readable)
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is not None:
        log.get_logger(__name__).error("build failed for a reason that is ours", exc_info=task.exception())
        send(Failed.of(InternalError(f"the build failed: {type(task.exception()).__name__}")))


def write(line: Line) -> None:
    sys.stdout.buffer.write(build_messages.encode(line))
    sys.stdout.buffer.flush()


def main() -> None:
    restrict_process(MEMORY)
    asyncio.run(supervise(build_messages.decode_order(sys.stdin.buffer.readline()), write))


if __name__ == "__main__":
    main()
