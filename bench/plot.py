"""The pictures of the documents: a cold node, a warm node, and how both grow with the image.

Drawn from the raw data of one run, so that they can be drawn again at any time: ``.venv/bin/python bench/plot.py
bench/results/DATE.json``. Bars are medians in seconds from zero. It must not measure anything.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display; before pyplot is imported, which would look for one
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.figures import two
from bench.intervals import Interval, value_interval

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
OURS, PEER = "#1f6feb", "#b8bec6"
"""Told apart in print and by colour-blind readers, by their lightness."""
_GREY = "#57606a"
_LIGHTER = 0.45
"""Opacity of what comes after the hello."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One contender's figure."""

    label: str
    ours: bool
    values: Sequence[float]
    after: float = 0.0
    """Seconds of what follows, drawn behind it in a lighter colour."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def whisker(self) -> tuple[float, float]:
        """How far the interval reaches below and above the median; the range, for fewer values than one needs."""
        interval = value_interval(self.values, statistics.median) or Interval(min(self.values), max(self.values))
        return self.median - interval.low, interval.high - self.median


def draw(document: Mapping[str, Any], folder: Path = FOLDER) -> Iterator[Path]:
    """Write as PNG those pictures whose tables the run has measured."""
    tables = {table["key"]: table for table in document["tables"]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, (paint, needed) in _PICTURES.items():
        if needed <= tables.keys():
            yield paint(tables, _caption(document), folder / f"{name}.png")


def _values(line: Mapping[str, Any], key: str) -> list[float]:
    values: list[float] = line["figures"].get(key, {"values": []})["values"]
    return values


def _bars(table: Mapping[str, Any], key: str, after: str = "") -> list[Bar]:
    bars = []
    for line in table["lines"]:
        if line["key"].endswith("-unsynced"):  # nobody can choose it
            continue
        rest = _values(line, after) if after else []
        ours = line["key"].startswith("imagecache")
        bars.append(Bar(line["title"], ours, _values(line, key), statistics.median(rest) if rest else 0.0))
    return [bar for bar in bars if bar.values]


def _cold(tables: Mapping[str, Any], caption: str, path: Path) -> Path:
    panels = {
        "1,000 MB, loopback: hello, then every file read": _bars(tables["cold"], "hello", "tree"),
        "1,000 MB, 1 Gbit/s and 1 ms: hello": _bars(tables["cold-1ms"], "hello"),
        "a service of ten layers, loopback: hello, then every file read": _bars(tables["cold-small"], "hello", "tree"),
    }
    return _panels(
        "A node that has nothing: seconds until the program in the container says hello", panels, caption, path
    )


def _warm(tables: Mapping[str, Any], caption: str, path: Path) -> Path:
    table = tables["warm"]
    titles = {column["key"]: column["title"] for column in table["columns"]}
    panels = {titles[key]: _bars(table, key) for key in ("hello", "import", "tree", "random")}
    return _panels("A node that is prepared, page cache empty: seconds", panels, caption, path)


def _panels(title: str, panels: Mapping[str, Sequence[Bar]], caption: str, path: Path) -> Path:
    """Panels below each other: they have the same contenders, and names need room."""
    heights = [len(bars) for bars in panels.values()]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(10, 0.34 * sum(heights) + 0.75 * len(panels) + 0.8), layout="constrained",
        height_ratios=heights,
    )  # fmt: skip
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, weight="bold")
    for place, (name, bars) in zip(axes, panels.items(), strict=True):
        _panel(place, name, bars)
    figure.supxlabel(caption, fontsize=8.5, color=_GREY)
    figure.savefig(path, dpi=150, metadata={"Software": None})  # the same bytes with any patch release
    plt.close(figure)
    return path


def _panel(place: Axes, title: str, bars: Sequence[Bar]) -> None:
    rows = range(len(bars))
    colours = [OURS if bar.ours else PEER for bar in bars]
    medians = [bar.median for bar in bars]
    after = [bar.after for bar in bars]
    place.barh(rows, after, 0.68, left=medians, color=colours, alpha=_LIGHTER)
    place.barh(rows, medians, 0.68, color=colours)
    low, high = zip(*(bar.whisker for bar in bars), strict=True)
    place.errorbar(medians, rows, xerr=[low, high], fmt="none", ecolor="black", elinewidth=1, capsize=2)
    for row, bar in zip(rows, bars, strict=True):
        text = f"{two(bar.median)} s" + (f"  + {two(bar.after)} s" if bar.after else "")
        weight = "bold" if bar.ours else "normal"
        place.annotate(text, (bar.median + bar.after + bar.whisker[1], row), (4, 0), va="center", fontsize=9,
                       textcoords="offset points", weight=weight)  # fmt: skip
    place.set_yticks(list(rows), [bar.label for bar in bars], fontsize=9.5)
    place.invert_yaxis()
    place.set_xlim(0, max(bar.median + bar.after + bar.whisker[1] for bar in bars) * 1.16)  # room for the last value
    place.set_xticks([])  # every bar has its value
    place.tick_params(left=False)
    place.spines[["top", "right", "bottom"]].set_visible(False)
    place.set_title(title, loc="left", fontsize=10)


_SIZES = {
    "cold-small": "95 MB\n10 layers",
    "cold-127": "276 MB\n127 layers",
    "cold": "995 MB\n5 layers",
    "cold-huge": "5,235 MB\n40 layers",
}
"""Uncompressed."""


def _scaling(tables: Mapping[str, Any], caption: str, path: Path) -> Path:
    """Seconds until hello for images of several sizes, cold; on a warm node they do not depend on it."""
    figure, place = plt.subplots(figsize=(8, 4), layout="constrained")
    names = list(_SIZES.values())
    for number, line in enumerate(tables["cold-huge"]["lines"]):
        key, ours = line["key"], line["key"].startswith("imagecache")
        lines = [{one["key"]: one for one in tables[size]["lines"]}[key] for size in _SIZES]
        medians = [statistics.median(_values(one, "hello")) for one in lines]
        colour = OURS if ours else PEER
        place.plot(names, medians, marker="os^Dv"[number % 5], color=colour, label=line["title"])
        place.annotate(
            f"{two(medians[-1])} s", (len(names) - 1, medians[-1]), (6, 0), textcoords="offset points", va="center"
        )
    place.set_ylim(0)
    place.set_ylabel("seconds until hello")
    place.spines[["top", "right"]].set_visible(False)
    place.legend(frameon=False)
    figure.suptitle(
        "A node that has nothing: larger images and more layers", x=0.01, ha="left", fontsize=12, weight="bold"
    )
    figure.supxlabel(caption, fontsize=8.5, color=_GREY)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)
    return path


_PICTURES: Mapping[str, tuple[Callable[[Mapping[str, Any], str, Path], Path], set[str]]] = {
    "cold": (_cold, {"cold", "cold-1ms", "cold-small"}),
    "warm": (_warm, {"warm"}),
    "scaling": (_scaling, set(_SIZES)),
}


def _caption(document: Mapping[str, Any]) -> str:
    facts = document["facts"]
    return (
        "Medians, with 95 % intervals of five turns or the range of fewer; shorter is better. "
        f"{facts['time'][:10]}: {facts['processors']} processors, "
        f"kernel {str(facts['kernel']).partition('-')[0]}, containerd 2.4."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures from the raw data of a run.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    for path in draw(json.loads(arguments.results.read_text()), arguments.folder):
        print(path)  # noqa: T201 - the result


if __name__ == "__main__":
    main()
