"""``./dev bench``: imagecache beside containerd's own ways, one run, one machine, one table.

Contenders take turns, figures are medians, every single value goes to ``bench/results/``. Not a test: nothing fails
when a goal is missed, the table says so.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import cluster, controller, conversion, plot, pulls, runphase
from bench.cluster import Site
from bench.nodes import Field, field
from bench.samples import Row, render, save
from testkit.oci_layout import Image
from testkit.peers.workspace import workspace
from testkit.real_images import big_image

_HOST: dict[str, Callable[[Field, int], list[Row]]] = {
    "pull": pulls.measure,
    "build": pulls.measure_build,
    "convert": lambda place, rounds: conversion.measure(place.image, rounds),
    "run": runphase.measure,
}
_CLUSTER: dict[str, Callable[[Site, int], list[Row]]] = {"pods": cluster.pods, "caches": cluster.caches}
_CONTROLLER: dict[str, Callable[[Path, int], list[Row]]] = {"controller": controller.measure}
_PARTS = [*_HOST, *_CLUSTER, *_CONTROLLER]
Place = TypeVar("Place")


def measure(directory: Path, image: Image, parts: Sequence[str], rounds: int) -> list[Row]:
    """What several parts stand on is there once, and only while they are measured."""
    rows: list[Row] = []
    if any(part in _HOST for part in parts):
        with field(directory, image) as place:
            rows += _run(_HOST, parts, place, rounds)
    if any(part in _CLUSTER for part in parts):
        with cluster.site(directory, image) as site:
            rows += _run(_CLUSTER, parts, site, rounds)
    return rows + _run(_CONTROLLER, parts, directory, rounds)


def _run(
    available: Mapping[str, Callable[[Place, int], list[Row]]], parts: Sequence[str], place: Place, rounds: int
) -> list[Row]:
    rows: list[Row] = []
    for part in parts:
        if part in available:
            sys.stderr.write(f"[bench] {part}\n")
            rows += available[part](place, rounds)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure imagecache beside containerd's own ways.")
    parser.add_argument("parts", nargs="*", choices=[*_PARTS, []], help="what to measure (everything)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--output", type=Path, help="raw data (bench/results/DATE.json)")
    arguments = parser.parse_args()
    image = big_image()
    with workspace() as directory:
        rows = measure(directory, image, arguments.parts or _PARTS, arguments.rounds)
    now = dt.datetime.now(dt.UTC)
    output = arguments.output or Path(__file__).parent / "results" / f"{now:%Y-%m-%d-%H%M}.json"
    facts = {"date": f"{now:%Y-%m-%dT%H:%MZ}", "rounds": arguments.rounds, "image_compressed_bytes": image.size}
    save(output, rows, facts)
    sys.stdout.write(f"{render(rows)}\n\nraw data: {output}\n")
    document = json.loads(output.read_text())
    if plot.is_complete(document):  # a run of some parts leaves the README's picture alone
        plot.draw(document)
        sys.stdout.write(f"picture: {plot.OUTPUT}\n")


if __name__ == "__main__":
    main()
