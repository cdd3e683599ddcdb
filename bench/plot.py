"""The picture of the README: what a cache saves, and what it costs while a container runs.

Drawn from the raw data of one run (``bench/results/*.json``), so that it can be drawn again at any time:
``.venv/bin/python bench/plot.py RESULTS``. Every bar is a median in seconds; each panel has a linear scale of its own,
from zero. It must not measure anything.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display; before pyplot is imported, which would look for one
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "benchmark.png"
OURS, PEER = "#1f6feb", "#b8bec6"
"""The two are told apart in print and by colour-blind readers, by their lightness."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of the results, and what it is called in the picture."""

    label: str
    measure: str
    note: str
    peer: str
    """What the other one is."""


PANELS: dict[str, tuple[Bar, ...]] = {
    "What a cache saves": (
        Bar("pull the image", "CRI pull, everything cached, containerd 2.4", "proxy", "pulled"),
        Bar("pod created → Running", "pod created → Running, cached vs pulled, containerd 2.4", "proxy", "pulled"),
        Bar(
            "create the cache →\nusable on one node",
            "kubectl create → usable on 1 node vs containerd 2.4 pulling the image on one",
            "",
            "pulled, one node",
        ),
        Bar(
            "create the cache →\nusable on three nodes",
            "kubectl create → usable on 3 nodes vs containerd 2.4 pulling the image on one",
            "",
            "pulled, one node",
        ),
    ),
    "What it costs while a container runs": (
        Bar(
            "pod created → Running",
            "pod created → Running, cached vs unpacked by overlayfs, containerd 2.4",
            "proxy",
            "unpacked",
        ),
        Bar(
            "import numpy, pandas,\nscipy, … (cold)",
            "import of numpy, pandas, scipy, sklearn, pyarrow, cold",
            "proxy",
            "unpacked",
        ),
        Bar("read every file (cold)", "read the whole tree, cold", "proxy", "unpacked"),
        Bar("6,000 random 4 KiB\nreads (cold)", "6,000 random 4 KiB reads, cold", "proxy", "unpacked"),
    ),
}


def is_complete(document: dict[str, Any]) -> bool:
    """Whether a run measured everything that the picture shows."""
    found = {(row["measure"], row["note"]) for row in document["rows"] if row["peer"]}
    return all((bar.measure, bar.note) in found for bars in PANELS.values() for bar in bars)


def draw(document: dict[str, Any], output: Path = OUTPUT) -> None:
    """Write the picture as PNG. Raises KeyError when the run did not measure what it shows."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 4.4), layout="constrained")
    for place, (title, bars) in zip(axes, PANELS.items(), strict=True):
        _panel(place, title, bars, document)
    names = ["imagecache", "containerd 2.4 with overlayfs"]
    figure.legend(axes[0].containers, names, loc="outside upper left", ncols=2, frameon=False, fontsize=10.5)
    figure.supxlabel(_caption(document), fontsize=8.5, color="#57606a")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150, metadata={"Software": None})  # the same bytes with any patch release
    plt.close(figure)


def _panel(place: Axes, title: str, bars: tuple[Bar, ...], document: dict[str, Any]) -> None:
    ours, peers = [], []
    for bar in bars:
        row = next((row for row in document["rows"] if (row["measure"], row["note"]) == (bar.measure, bar.note)), None)
        if row is None or not row["peer"]:
            raise KeyError(bar.measure)
        ours.append(statistics.median(row["imagecache"]))
        peers.append(statistics.median(row["peer"]))
    height, rows = 0.38, range(len(bars))
    first = place.barh([row - height / 2 for row in rows], ours, height, color=OURS)
    second = place.barh([row + height / 2 for row in rows], peers, height, color=PEER)
    place.bar_label(first, [_seconds(value) for value in ours], padding=3, fontsize=10, weight="bold")
    named = [f"{_seconds(value)}  {bar.peer}" for bar, value in zip(bars, peers, strict=True)]
    place.bar_label(second, named, padding=3, fontsize=9, color="#57606a")
    place.set_yticks(list(rows), [bar.label for bar in bars], fontsize=10)
    place.invert_yaxis()
    place.set_xlim(0, max(ours + peers) * 1.38)  # room for the words behind the longest bar
    place.set_xticks([])  # every bar has its value
    place.tick_params(left=False)
    place.spines[["top", "right", "bottom"]].set_visible(False)
    place.set_title(title, loc="left", fontsize=12, weight="bold")


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _caption(document: dict[str, Any]) -> str:
    machine, facts = document["machine"], document["facts"]
    size = facts["image_compressed_bytes"] / 1e6
    return (
        f"Medians of {facts['date'][:10]}: {machine['cpus']} processors, kernel {machine['kernel'].partition('-')[0]}, "
        f"a registry on loopback, an image of {size:.0f} MB compressed; proxy mode. Shorter is better."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the README's picture from the raw data of a run.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    draw(json.loads(arguments.results.read_text()), arguments.output)


if __name__ == "__main__":
    main()
