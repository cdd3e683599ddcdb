"""Progress added up and shown."""

from __future__ import annotations

import io

from rich.console import Console

from imagecache.builder.build_events import Advanced, ImageReady, ImageResolved, LayerPlan, Planned
from imagecache.cli.live import LiveDisplay
from imagecache.cli.progress import LineDisplay, summary
from imagecache.cli.tally import Tally
from imagecache.containerd.api import Attached
from imagecache.digest import Digest
from imagecache.errors import RegistryUnavailable
from imagecache.plain_host.verbs import Accepted
from testkit.clock import FakeClock

MIB = 1 << 20
A, B = Digest.sha256(b"a"), Digest.sha256(b"b")
PLANNED = Planned((LayerPlan(A, 10 * MIB, False, ("x:1",)), LayerPlan(B, 30 * MIB, True, ("x:1",))), 60 * MIB, 80 * MIB)


def test_rate_and_time_left() -> None:
    tally = Tally()
    tally.on(ImageResolved("x:1", A, 2, 40 * MIB), 0.0)
    tally.on(PLANNED, 0.0)
    assert (tally.percent, tally.rate, tally.seconds_left) == (75, 0.0, None)

    tally.on(Advanced(A, 5 * MIB, 0, 65 * MIB, 80 * MIB), 1.0)
    assert tally.rate == 5 * MIB
    assert tally.seconds_left == 3.0
    assert summary(tally) == "81% 65MiB of 80MiB, 5.0MiB/s, 3s left"

    tally.on(Advanced(A, 10 * MIB, 10 * MIB, 80 * MIB, 80 * MIB), 2.0)
    tally.on(ImageReady("x:1", 80 * MIB, 80 * MIB), 20.0)
    assert tally.percent == 100
    assert all(layer.done for layer in tally.layers.values())
    assert tally.images["x:1"].ready


def test_the_rate_forgets_what_is_long_ago() -> None:
    tally = Tally()
    tally.on(PLANNED, 0.0)
    for second, mib in ((1, 5), (10, 6), (11, 7), (12, 8)):
        tally.on(Advanced(A, mib * MIB, 0, (60 + mib) * MIB, 80 * MIB), float(second))

    assert tally.rate == MIB


def test_nothing_to_do_is_no_division() -> None:
    tally = Tally()
    tally.on(Planned((), 0, 0), 0.0)

    assert (tally.percent, tally.seconds_left) == (0, None)


def test_lines_at_most_every_two_seconds() -> None:
    clock = FakeClock()
    lines: list[str] = []
    with LineDisplay(clock, say=lines.append) as display:
        display.on(PLANNED)
        for number in range(1, 11):
            clock.advance(0.5)
            display.on(Advanced(A, number * MIB, 0, (60 + number) * MIB, 80 * MIB))

    assert lines == ["80% 64MiB of 80MiB, 2.0MiB/s, 8s left", "85% 68MiB of 80MiB, 2.0MiB/s, 6s left"]


def live() -> tuple[LiveDisplay, io.StringIO, FakeClock]:
    clock, out = FakeClock(), io.StringIO()
    return LiveDisplay(clock, Console(file=out, width=100, force_terminal=True, color_system=None)), out, clock


def rendered(display: LiveDisplay) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(display.render())
    return out.getvalue()


def test_the_live_display_shows_images_layers_bytes_rate_and_time_left() -> None:
    display, out, clock = live()
    with display:
        display.on(Accepted("a", "imc-1", "resumed", ()))
        assert "asking the registry" in rendered(display)
        display.on(ImageResolved("x:1", A, 2, 40 * MIB))
        display.on(PLANNED)
        clock.advance(1)
        display.on(Advanced(A, 5 * MIB, 0, 65 * MIB, 80 * MIB))
        picture = rendered(display)
        display.on(Advanced(A, 10 * MIB, 1, 70 * MIB, 80 * MIB))
        converting = rendered(display)
        display.on(Advanced(A, 10 * MIB, 10 * MIB, 80 * MIB, 80 * MIB))
        display.on(ImageReady("x:1", 80 * MIB, 80 * MIB))
        end = rendered(display)
        display.on(Attached({"y" * 200: ""}, ("private:1",), reserved=("reserved:1",)))
        display.failed(RegistryUnavailable("no answer"))

    assert "x:1" in picture
    assert "pulling" in picture
    assert "2 layers, 40MiB" in picture
    assert A.short in picture
    assert "5.0MiB / 10MiB downloading" in picture
    assert B.short not in picture
    assert "81% 65MiB of 80MiB, 5.0MiB/s, 3s left" in picture
    assert "10MiB / 10MiB converting" in converting
    assert "ready" in end
    assert A.short not in end
    printed = out.getvalue()
    assert f"{'y' * 200} attached\n" in printed
    assert "imagecache.eci.alibabacloud.com/a resumed" in printed
    assert "private:1 layers attached, name withheld (private)" in printed
    assert "reserved:1 layers attached, name withheld (reserved)" in printed


def test_many_layers_are_counted_instead_of_listed() -> None:
    display, _out, _clock = live()
    plans = tuple(LayerPlan(Digest.sha256(bytes([n])), MIB, False, ("x:1",)) for n in range(20))
    with display:
        display.on(Planned(plans, 0, 40 * MIB))
        picture = rendered(display)

    assert picture.count("waiting") == 12
    assert "and 8 more layers" in picture
