"""The tables of README.md and docs/benchmarks.md, written from the raw data of one run and never by hand.

``.venv/bin/python bench/report.py bench/results/DATE.json`` writes them between their markers, and draws the pictures
again; ``--check`` compares (tests/unit/bench). It must not measure anything.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import plot
from bench.drift import Drift
from bench.figures import Row, Table, amount, render_rows, render_table, times

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
END = "<!-- end -->\n"
Document = Mapping[str, Any]
_NUMBER = re.compile(r"\d+\.\d+(\.\d+)?")

README_ROWS: Sequence[tuple[str, str]] = (
    ("cold node, 1,000 MB: hello", "beside stargz"),
    ("CRI pull, every layer there", "proxy, containerd 2.4"),
    ("kubectl create → usable on 1 node", ""),
    ("kubectl create → usable on 3 nodes", ""),
    ("pod created → Running, containerd 2.4", "proxy"),
    ("import of numpy, pandas, scipy, sklearn, pyarrow, cold", "proxy"),
    ("read the whole tree, cold", "proxy"),
    ("6,000 random 4 KiB reads, cold", "proxy"),
    ("convert a layer", ""),
)
"""Measure and the beginning of the note: what a reader asks first, where we lose included."""


def sections(document: Document) -> Iterator[tuple[str, str]]:
    """Name and Markdown of everything that stands between markers."""
    rows = [Row.of(data) for data in document["rows"]]
    tables = [Table.of(data) for data in document["tables"]]
    yield "run", run(document)
    yield "rows", render_rows(rows)
    yield "eight", eight(rows)
    for table in tables:
        yield table.key, render_table(table)


def run(document: Document) -> str:
    """When, on what, and of what the figures are."""
    facts = document["facts"]
    minutes = (document["ended"] - document["began"]) / 60
    began = datetime.fromtimestamp(document["began"], UTC)
    commit = str(facts["imagecache"]["commit"])[:12] + (" with changes" if facts["imagecache"]["dirty"] else "")
    text = (
        f"Of {began:%Y-%m-%d %H:%M} UTC, {minutes:.0f} minutes, commit {commit}: {facts['processors']} "
        f"processors ({facts['cpu']}), {facts['memory_bytes'] / 2**30:.0f} GiB of memory, {facts['release']}, "
        f"kernel {facts['kernel']}, {facts['disk']['filesystem']}, read-ahead {facts['disk']['read_ahead_kib']} KiB."
    )
    return "\n\n".join(textwrap.fill(part, 120) for part in [text, _versions(facts), *_drift(document)])


def _versions(facts: Mapping[str, Any]) -> str:
    programs, modules = facts["programs"], facts["go_modules"]["bench-go"]
    found = {
        "containerd of Debian": programs["containerd"],
        "containerd": programs["containerd 2.4"],
        "runc": programs["runc"],
        "docker-registry": programs["docker-registry"],
        "igzip": programs["igzip, tuned contenders"],
        "erofs-utils": programs["mkfs.erofs, tuned contenders"],
        "stargz-snapshotter": modules["github.com/containerd/stargz-snapshotter"],
        "soci-snapshotter": modules["github.com/awslabs/soci-snapshotter"],
        "Python": facts["python"],
    }
    numbers = [f"{name} {match[0]}" for name, text in found.items() if (match := _NUMBER.search(text))]
    return f"{', '.join(numbers)}."


def _drift(document: Document) -> list[str]:
    """Whether the machine was the same from the first turn to the last."""
    if document["drift"] is None:
        return ["**This run was cut short.**"]
    drift = Drift.of(document["drift"])
    return [f"**This run fails its own test: the machine changed.** {drift.text}" if drift.fails else drift.text]


def eight(rows: Sequence[Row]) -> str:
    """README's rows."""
    lines = ["| measure | imagecache | peer | imagecache is | |", "|---|---|---|---|---|"]
    for measure, note in README_ROWS:
        row = next((row for row in rows if row.measure == measure and row.note.startswith(note)), None)
        if row is None or row.peer is None:  # a run of some parts
            continue
        ours, peer = row.shown, row.statistic(row.peer.values)
        factor = times(max(ours / peer, peer / ours))
        verdict = "not told apart" if row.is_even else f"{factor}× {'slower' if ours > peer else 'faster'}"
        cells = (row.name, amount(ours, row.unit), f"{amount(peer, row.unit)}, {row.peer_name}", verdict, row.verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def written(text: str, found: Mapping[str, str]) -> str:
    """A document with every marked part as it is in ``found``. Raises KeyError for one that the run has not."""
    parts = text.split("<!-- bench: ")
    for number, part in enumerate(parts[1:], 1):
        name, _, _ = part.partition(",")
        _, _, rest = part.partition(END)
        parts[number] = f"{name}, by bench/report.py -->\n{found[name]}\n{END}{rest}"
    return "<!-- bench: ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the documents' tables and pictures from the raw data of a run.")
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    document = json.loads(arguments.results.read_text())
    found = dict(sections(document))
    for path in DOCUMENTS:
        path.write_text(written(path.read_text(), found))
    for picture in plot.draw(document):
        print(picture)  # noqa: T201 - the result


if __name__ == "__main__":
    main()
