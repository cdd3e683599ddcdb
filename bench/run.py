"""``./dev bench``: imagecache beside containerd's own ways, one run, one machine, one table.

Contenders take turns, figures are medians, every single value goes to ``bench/results/``. Not a test: nothing fails
when a goal is missed, the table says so.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import conversion, pulls, runphase
from bench.nodes import Field, field
from bench.samples import Row, render, save

from imagecache.testing.peers.workspace import workspace
from imagecache.testing.real_images import big_image

_PARTS: dict[str, Callable[[Field, int], list[Row]]] = {
    "pull": pulls.measure,
    "build": pulls.measure_build,
    "convert": lambda place, rounds: conversion.measure(place.image, rounds),
    "run": runphase.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure imagecache beside containerd's own ways.")
    parser.add_argument("parts", nargs="*", choices=[*_PARTS, []], help="what to measure (everything)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--output", type=Path, help="raw data (bench/results/DATE.json)")
    arguments = parser.parse_args()
    image = big_image()
    rows: list[Row] = []
    with workspace() as directory, field(directory, image) as place:
        for part in arguments.parts or _PARTS:
            sys.stderr.write(f"[bench] {part}\n")
            rows += _PARTS[part](place, arguments.rounds)
    now = dt.datetime.now(dt.UTC)
    output = arguments.output or Path(__file__).parent / "results" / f"{now:%Y-%m-%d-%H%M}.json"
    facts = {"date": f"{now:%Y-%m-%dT%H:%MZ}", "rounds": arguments.rounds, "image_compressed_bytes": image.size}
    save(output, rows, facts)
    sys.stdout.write(f"{render(rows)}\n\nraw data: {output}\n")


if __name__ == "__main__":
    main()
