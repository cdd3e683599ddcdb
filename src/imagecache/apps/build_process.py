"""One build in a process of its own, for a controller: the order on stdin, its events as lines on stdout.

``python -I -m imagecache.apps.build_process``; ``controller.build_process`` starts it. No new
privileges, no core dumps, a bound on memory; layers are parsed by workers below it. Ends when stdin does. It must not
outlive its controller.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from imagecache import memory
from imagecache.apps.build import build_bundle, host_credentials
from imagecache.apps.child import until_stdin_ends
from imagecache.apps.store import open_store
from imagecache.builder.build_events import Advanced, BuildEvent, Planned
from imagecache.builder.inflate_threads import RESERVED
from imagecache.clock import SystemClock
from imagecache.controller import build_messages
from imagecache.controller.build_messages import Ended, Failed, Line, Order
from imagecache.errors import ImageCacheError, InternalError
from imagecache.privileges import restrict_process
from imagecache.settings.load import load
from imagecache.telemetry import log

MEMORY = 2 << 30
"""Bytes of data (RLIMIT_DATA) of this process at least. Workers have a bound of their own, which cannot be larger."""
INTERVAL = 0.2
"""Seconds between two lines of progress."""

Send = Callable[[Line], None]


class EventSender:
    """Sends the events of a build at a bounded rate; the last progress before an end is always sent."""

    def __init__(self, clock: SystemClock, send: Send) -> None:
        self._clock = clock
        self._send = send
        self._sent = -INTERVAL
        self._held: Planned | Advanced | None = None

    def on(self, event: BuildEvent) -> None:
        match event:
            case Planned():
                # without its layers, of which there may be thousands: a line is bounded, and no reader shows them
                self._hold(Planned((), event.done, event.total))
            case Advanced():
                self._hold(event)
            case _:
                self._send(event)

    def _hold(self, event: Planned | Advanced) -> None:
        self._held = event
        if self._clock.monotonic() - self._sent >= INTERVAL:
            self.flush()

    def flush(self) -> None:
        if self._held is not None:
            self._send(self._held)
            self._held, self._sent = None, self._clock.monotonic()


async def run(order: Order, send: Send) -> None:
    """Build, and send how it ended. Cancelled when stdin ends."""
    settings, clock = load(dict(order.settings), {}), SystemClock()
    log.configure(log_format=settings.log_format.value, level="warning")
    sender = EventSender(clock, send)
    try:
        credentials = list(
            host_credentials(order.credentials, Path(order.docker_config) if order.docker_config else None)
        )
        store = await asyncio.to_thread(open_store, settings, clock)
        builds = max(1, settings.controller_builds)
        # many caches may be of images that the store has, and then a worker would be for nothing
        await build_bundle(
            store,
            settings,
            clock,
            order.request,
            credentials,
            sender.on,
            builds=builds,
            discreet=order.discreet,
            early=False,
        )
    except ImageCacheError as error:
        send(Failed.of(error))
    else:
        sender.flush()
        send(Ended())


async def supervise(order: Order, send: Send) -> None:
    """``run`` until it ends or the controller is gone."""
    error = await until_stdin_ends(run(order, send))
    if error is not None:
        log.get_logger(__name__).error("build failed for a reason that is ours", exc_info=error)
        send(Failed.of(InternalError(f"the build failed: {type(error).__name__}")))


def write(line: Line) -> None:
    sys.stdout.buffer.write(build_messages.encode(line))
    sys.stdout.buffer.flush()


def main() -> None:
    restrict_process(max(MEMORY, memory.available() // 4 * 3), most=RESERVED)
    asyncio.run(supervise(build_messages.decode_order(sys.stdin.buffer.readline()), write))


if __name__ == "__main__":
    main()
