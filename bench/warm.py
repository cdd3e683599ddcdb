"""A node that is prepared for an image, and what a container gets once it runs.

Every contender has one node for the whole part, left as that system leaves a prepared one; the image's layers are on
the disk and nothing of them is in memory. Each turn asks for a container as a kubelet does, runs the hello program in
it, and then programs that read the image, each in a fresh container with caches dropped before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.cold import Course, execute
from bench.contender import LONGEST, Contender, Node
from bench.figures import Figure, Goal, Line, Measured, Row, Table
from bench.fresh import Roots, forget_pages
from bench.meter import disk_held
from bench.programs import FIND, IMPORT, LINES, RANDOM, TREE
from testkit.peers.cri import Cri

_MB = 1e6
COLUMNS = (
    Figure("hello", "hello", "s"),
    Figure("brought", "of it until the image is there", "s"),
    Figure("import", "import numpy, pandas, scipy, sklearn, pyarrow", "s"),
    Figure("tree", "whole tree", "s"),
    Figure("find", "find", "s"),
    Figure("random", "6,000 random 4 KiB reads", "s"),
    Figure("lines", "a text file by lines", "s"),
    Figure("cache", "page cache after the tree", "MB"),
    Figure("trimmed", "and after the trim", "MB"),
    Figure("disk", "disk held", "MB"),
)
_PROGRAMS = {"tree": TREE, "find": FIND, "random": RANDOM, "lines": LINES}
_VARIED = 3
"""Imports in each turn: one differs from the next by a tenth, and what is compared by less."""
TRIM = 11.0
"""Seconds: the agent's default delay of the trim, and one."""


@dataclass(frozen=True, slots=True)
class _Warm:
    contender: Contender
    node: Node
    reference: str
    line: Line


def measure(course: Course, contenders: Sequence[Contender], roots: Roots) -> Table:
    image = course.image.image()
    with ExitStack() as stack:
        lines = []
        for one in contenders:
            reference = one.publish(course.site, image, f"{course.image.key}/{one.key}:warm")
            directory = roots.fresh(f"warm-{one.key}")
            node = stack.enter_context(one.node(course.site, directory))
            before = disk_held(directory)
            node.warm(reference)
            node.bring(reference)
            warm = _Warm(one, node, reference, Line(one.key, one.title, one.durable, {}))
            asyncio.run(_program(warm, TREE))  # what a lazy contender has not fetched is fetched here
            warm.line.add(disk=(disk_held(directory) - before) / _MB)
            lines.append(warm)
        for number in range(course.rounds):
            for step in range(len(lines)):
                _turn(lines[(number + step) % len(lines)], course.image.hello)
    return Table(course.key, course.title, COLUMNS, [one.line for one in lines])


def _turn(warm: _Warm, hello: Sequence[str]) -> None:
    warm.node.warm(warm.reference)
    forget_pages()
    warm.line.add(**asyncio.run(_hello(warm, hello)))
    for _ in range(_VARIED):
        warm.line.add(**{"import": asyncio.run(_program(warm, IMPORT))})
    for key, program in _PROGRAMS.items():
        warm.line.add(**{key: asyncio.run(_program(warm, program))})
    warm.line.add(**asyncio.run(_page_cache(warm)))


async def _hello(warm: _Warm, program: Sequence[str]) -> dict[str, float]:
    start = time.perf_counter()
    await asyncio.to_thread(warm.node.bring, warm.reference)
    brought = time.perf_counter() - start
    async with Cri(warm.node.address, seconds=LONGEST) as cri, cri.running(warm.reference) as container:
        await execute(cri, container, program)
        return {"hello": time.perf_counter() - start, "brought": brought}


async def _program(warm: _Warm, program: str) -> float:
    """Seconds that the program says, in a fresh container, caches dropped after its start."""
    async with Cri(warm.node.address, seconds=LONGEST) as cri, cri.running(warm.reference) as container:
        await asyncio.to_thread(forget_pages)
        return float((await execute(cri, container, ["python3", "-c", program])).split()[0])


async def _page_cache(warm: _Warm) -> dict[str, float]:
    """MB of page cache more than before a container read the whole tree: right after, and after the trim.

    Between them another container starts, as happens on a node, and our agent has its default time to trim.
    """
    async with Cri(warm.node.address, seconds=LONGEST) as cri, AsyncExitStack() as stack:
        container = await stack.enter_async_context(cri.running(warm.reference))
        await asyncio.to_thread(forget_pages)
        before = cached_bytes()
        await execute(cri, container, ["python3", "-c", TREE])
        after = cached_bytes()
        await stack.enter_async_context(cri.running(warm.reference))
        if warm.line.key.startswith("imagecache"):  # nobody else trims
            await asyncio.sleep(TRIM)
        return {"cache": (after - before) / _MB, "trimmed": (cached_bytes() - before) / _MB}


def cached_bytes() -> int:
    """Page cache and buffers of the machine."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Cached", "Buffers"))


_COMPARED = {
    "import": "import of numpy, pandas, scipy, sklearn, pyarrow, cold",
    "tree": "read the whole tree, cold",
    "find": "find (stat everything), cold",
    "random": "6,000 random 4 KiB reads, cold",
    "lines": "read a text file by lines, cold",
}
_MEMORY = {
    "cache": "page cache of one container, right after reading all",
    "trimmed": "page cache of one container, after the trim",
}


def compare(table: Table, suffix: str) -> Measured:
    """The table, and our modes beside overlayfs; ``suffix`` tells its rows from those of another such table."""
    peer = table.line("overlayfs-tuned")
    rows = []
    for line in table.lines:
        if not line.key.startswith("imagecache-"):
            continue
        mode = line.key.removeprefix("imagecache-")
        judged = mode == "proxy"  # in native mode containerd's own snapshotter mounts what we made
        rows += [
            Row(
                title,
                line.figures[key],
                peer.figures[key],
                "overlayfs",
                Goal(1.0, at_least=True) if judged else None,
                faster=True,
                note=mode + suffix,
            )
            for key, title in _COMPARED.items()
        ]
        rows += [
            Row(
                title,
                line.figures[key],
                peer.figures[key],
                "overlayfs",
                Goal(1.15) if judged else None,
                unit="MB",
                note=mode + suffix,
            )
            for key, title in _MEMORY.items()
        ]
    return Measured(rows, [table])
