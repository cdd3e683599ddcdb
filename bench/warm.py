"""A node that is prepared for an image, and what a container gets once it runs.

Every turn has a fresh node, left as that system leaves a prepared one; the image's layers are on the disk and nothing
of them is in memory. A container is asked for as a kubelet does, the hello program runs in it, and then programs that
read the image, each in a fresh container with caches dropped before.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from bench.cold import Course, execute
from bench.contender import LONGEST, Contender, Node
from bench.contenders.erofs import PREBUILT
from bench.figures import MB, Figure, Goal, Line, Measured, Row, Table
from bench.fresh import Roots, drop_caches, forget_pages, settle
from bench.meter import MemoryMeter, busy_seconds, disk_held
from bench.programs import FIND, IMPORT, LINES, RANDOM, TREE
from testkit.peers.cri import Cri

COLUMNS = (
    Figure("hello", "hello", "s"),
    Figure("requests", "requests", ""),
    Figure("cpu", "CPU until hello", "s"),
    Figure("import", "import numpy, pandas, scipy, sklearn, pyarrow", "s"),
    Figure("tree", "whole tree", "s"),
    Figure("find", "find", "s"),
    Figure("random", "6,000 random 4 KiB reads", "s"),
    Figure("lines", "a text file by lines, five times", "s"),
    Figure("cache", "page cache after the tree", "MB"),
    Figure("trimmed", "and after the trim", "MB"),
    Figure("memory", "peak memory", "MB"),
    Figure("disk", "disk held", "MB"),
)
_PROGRAMS = {"find": FIND, "random": RANDOM, "lines": LINES}
VARIED = 3
"""Times in each turn, of which the mean counts: single imports differ by a tenth, what is compared by less."""
TRIM = 11.0
"""Seconds: the agent's default delay of the trim, and one."""


def measure(course: Course, contenders: Sequence[Contender], roots: Roots) -> Table:
    image = course.image.image()
    references = {one.key: one.publish(course.site, image, f"{course.image.key}/{one.key}:warm") for one in contenders}
    lines = {one.key: Line(one.key, one.title, one.durable, {}) for one in contenders}
    for _, one in course.order(contenders):
        lines[one.key].add(**_turn(course, one, references[one.key], roots))
    return Table(course.key, course.title, COLUMNS, list(lines.values()))


def _turn(course: Course, contender: Contender, reference: str, roots: Roots) -> dict[str, float]:
    """A node of its own for each turn: where files lie on the disk is a part of how fast they are read."""
    directory = roots.fresh(f"warm-{contender.key}")
    with MemoryMeter() as memory, contender.node(course.site, directory) as node:
        before = disk_held(directory)
        node.warm(reference)
        found = {"disk": (disk_held(directory) - before) / MB}
        memory.reset()
        found |= asyncio.run(_hello(course, node, reference))
        found["import"] = asyncio.run(program_seconds(node, reference, IMPORT, times=VARIED))
        for key, program in _PROGRAMS.items():
            found[key] = asyncio.run(program_seconds(node, reference, program))
        found |= asyncio.run(_tree(node, reference, trims=contender.key.startswith("imagecache")))
        found["memory"] = memory.peak / MB
    roots.spend(directory)
    return found


async def _hello(course: Course, node: Node, reference: str) -> dict[str, float]:
    await asyncio.to_thread(forget_pages)
    course.site.registry.clear_requests()
    busy, start = busy_seconds(), time.perf_counter()
    await asyncio.to_thread(node.bring, reference)
    async with Cri(node.address, seconds=LONGEST) as cri, cri.running(reference) as container:
        await execute(cri, container, course.image.hello)
        found = {"hello": time.perf_counter() - start, "cpu": busy_seconds() - busy}
    return found | {"requests": len(course.site.registry.requests())}


async def program_seconds(node: Node, reference: str, program: str, *, times: int = 1) -> float:
    """Seconds that the program says, the mean of so many fresh containers, caches dropped after each start."""
    found = []
    for _ in range(times):
        async with Cri(node.address, seconds=LONGEST) as cri, cri.running(reference) as container:
            await asyncio.to_thread(forget_pages)
            found.append(float((await execute(cri, container, ["python3", "-c", program])).split()[0]))
    return statistics.mean(found)


async def _tree(node: Node, reference: str, *, trims: bool) -> dict[str, float]:
    """Seconds of reading the whole tree; MB of page cache more than before, right after it and after the trim.

    Between them another container starts, as happens on a node, and our agent has its default time to trim. What it
    trims for the containers before must not fall into the reading.
    """
    if trims:
        await asyncio.sleep(TRIM)
    await asyncio.to_thread(settle)
    async with Cri(node.address, seconds=LONGEST) as cri, AsyncExitStack() as stack:
        container = await stack.enter_async_context(cri.running(reference))
        # at once: the disk can take as long to be quiet as our agent waits, and its trim would fall into the reading
        await asyncio.to_thread(drop_caches)
        before = cached_bytes()
        seconds = float((await execute(cri, container, ["python3", "-c", TREE])).split()[0])
        after = cached_bytes()
        await stack.enter_async_context(cri.running(reference))
        if trims:
            await asyncio.sleep(TRIM)
        return {
            "tree": seconds,
            "cache": (after - before) / MB,
            "trimmed": (cached_bytes() - before) / MB,
        }


def cached_bytes() -> int:
    """Page cache and buffers of the machine."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Cached", "Buffers"))


_COMPARED = {
    "hello": "container started, hello said, cold",
    "import": "import of numpy, pandas, scipy, sklearn, pyarrow, cold",
    "tree": "read the whole tree, cold",
    "find": "find (stat everything), cold",
    "random": "6,000 random 4 KiB reads, cold",
    "lines": "read a text file by lines, five times",
}
_MEMORY = {
    "cache": "page cache of one container, right after reading all",
    "trimmed": "page cache of one container, after the trim",
}


def compare(table: Table, suffix: str) -> Measured:
    """The table, and our modes beside overlayfs; proxy mode beside containerd's prebuilt cache too, where that stands.

    ``suffix`` tells its rows from those of another such table.
    """
    lines = {line.key: line for line in table.lines}
    rows: list[Row] = []
    for key in ("imagecache-proxy", "imagecache-native"):  # in native mode containerd's own snapshotter mounts
        if key in lines:
            mode = key.removeprefix("imagecache-")
            rows += _beside(lines[key], lines["overlayfs-tuned"], "overlayfs", mode + suffix, judged=mode == "proxy")
    if PREBUILT.key in lines:
        rows += _beside(
            lines["imagecache-proxy"], lines[PREBUILT.key], PREBUILT.title, "proxy, beside erofs", judged=True
        )
    return Measured(rows, [table])


def _beside(ours: Line, peer: Line, name: str, note: str, *, judged: bool) -> Iterator[Row]:
    goal, bound = (Goal(1.0, at_least=True), Goal(1.15)) if judged else (None, None)
    for key, title in _COMPARED.items():
        yield Row(title, ours.figures[key], peer.figures[key], name, goal, faster=True, note=note)
    for key, title in _MEMORY.items():
        yield Row(title, ours.figures[key], peer.figures[key], name, bound, unit="MB", note=note)
