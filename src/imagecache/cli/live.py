"""The display of a terminal: one line per image and per running layer, with bytes, rate and time left.

rich redraws it a few times a second from the tally; finished layers disappear. It must not decide anything.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from imagecache.api import columns
from imagecache.cli.progress import outcome, summary
from imagecache.cli.session import note
from imagecache.cli.tally import ImageTally, LayerTally, Tally
from imagecache.clock import Clock
from imagecache.containerd.api import Attached
from imagecache.errors import ImageCacheError
from imagecache.plain_host.verbs import Accepted, Built, ShownEvent
from imagecache.written import printable

_LAYERS_SHOWN = 12
"""A terminal of 24 lines still shows the images and the bar."""
_REDRAWS = 8
"""A second."""


class LiveDisplay:
    def __init__(self, clock: Clock, console: Console | None = None) -> None:
        self._clock = clock
        self._tally = Tally()
        self._console = console or Console(file=sys.stdout, highlight=False)
        self._live = Live(
            console=self._console, refresh_per_second=_REDRAWS, transient=True, get_renderable=self.render
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def failed(self, error: ImageCacheError) -> None:
        pass

    def on(self, event: ShownEvent) -> None:
        if not isinstance(event, Accepted | Built | Attached):
            self._tally.on(event, self._clock.monotonic())
            return
        if isinstance(event, Accepted):
            self._tally = Tally()
        for line in outcome(event):
            self._console.print(printable(line), markup=False, soft_wrap=True)
        for text in event.notes if isinstance(event, Accepted) else ():
            note(text)

    def render(self) -> Group:
        """The present state, as rich draws it."""
        table = Table.grid(padding=(0, 1))
        for image in self._tally.images.values():
            table.add_row(*_image_row(image))
        running = [layer for layer in self._tally.layers.values() if not layer.done]
        for layer in running[:_LAYERS_SHOWN]:
            table.add_row(*_layer_row(layer))
        more = len(running) - _LAYERS_SHOWN
        rest = Text(f"and {columns.count(more, 'more layer')}", style="dim") if more > 0 else Text()
        if not self._tally.total:
            return Group(table, Text("asking the registry", style="dim"))
        bar = ProgressBar(total=self._tally.total, completed=self._tally.done, width=40)
        return Group(table, rest, bar, Text(summary(self._tally)))


def _image_row(image: ImageTally) -> tuple[Text, Text, Text]:
    state = Text("ready", style="green") if image.ready else Text("pulling", style="yellow")
    amount = f"{columns.count(image.layers, 'layer')}, {columns.size(image.size)}"
    return Text(printable(image.image)), state, Text(amount)


def _layer_row(layer: LayerTally) -> tuple[Text, ProgressBar, Text]:
    counts = f"{columns.size(layer.downloaded)} / {columns.size(layer.size)}"
    state = "converting" if layer.downloaded >= layer.size else "downloading" if layer.downloaded else "waiting"
    done = layer.downloaded + layer.converted
    bar = ProgressBar(total=2 * layer.size or 1, completed=done, width=24)
    return Text(f"  {layer.digest.short}"), bar, Text(f"{counts} {state}")
