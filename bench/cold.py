"""A node that has nothing: from the wish for an image to a container that works, and to its whole tree read.

Every turn is a fresh node in a fresh directory. In it: what the contender does to bring the image, a container, the
image's hello program in it (the first figure that a user feels), then every file of the image (what a lazy contender
has put off). The order of contenders is drawn for each round.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.contender import LONGEST, Contender, Node, Site
from bench.figures import MB, Figure, Goal, Line, Measured, Row, Table
from bench.fresh import Roots, drawn, forget_pages, read_all, settle
from bench.images import BenchImage
from bench.meter import MemoryMeter, busy_seconds, disk_held
from bench.programs import TREE
from testkit.peers.cri import Cri
from testkit.peers.registry import Registry

COLUMNS = (
    Figure("hello", "hello", "s"),
    Figure("brought", "of it until the image is there", "s"),
    Figure("wire_hello", "wire until hello", "MB"),
    Figure("requests_hello", "requests until hello", ""),
    Figure("cpu_hello", "CPU until hello", "s"),
    Figure("tree", "whole tree right after", "s"),
    Figure("wire", "wire in all", "MB"),
    Figure("requests", "requests in all", ""),
    Figure("cpu", "CPU in all", "s"),
    Figure("memory", "peak memory", "MB"),
    Figure("disk", "disk held", "MB"),
)


@dataclass(frozen=True, slots=True)
class Course:
    """What is measured: an image over a network."""

    key: str
    title: str
    site: Site
    image: BenchImage
    rounds: int
    tree_rounds: int
    """In how many of them the whole tree is read: lazy contenders take half a minute for it."""
    few: Mapping[str, int] = field(default_factory=dict)
    """Rounds of contenders that take much time, by key."""

    def order(self, contenders: Sequence[Contender]) -> Iterator[tuple[int, Contender]]:
        """Each turn's round and contender."""
        return ((number, one) for number, one in drawn(self.rounds, contenders) if number < self._rounds_of(one))

    def _rounds_of(self, contender: Contender) -> int:
        return self.few.get(contender.key, self.rounds)


def measure(course: Course, contenders: Sequence[Contender], roots: Roots) -> Table:
    """Raises whatever a contender raises: a table with a hole proves nothing."""
    image = course.image.image()
    references = {one.key: one.publish(course.site, image, f"{course.image.key}/{one.key}:1") for one in contenders}
    lines = {one.key: Line(one.key, one.title, one.durable, {}) for one in contenders}
    for number, one in course.order(contenders):
        turn = Turn(course, one, references[one.key], with_tree=number < course.tree_rounds)
        lines[one.key].add(**turn.take(roots))
    return Table(course.key, course.title, COLUMNS, list(lines.values()))


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender, once."""

    course: Course
    contender: Contender
    reference: str
    with_tree: bool

    def take(self, roots: Roots) -> dict[str, float]:
        site, directory = self.course.site, roots.fresh(self.contender.key)
        forget_pages()
        with MemoryMeter() as memory, self.contender.node(site, directory) as node:
            before = disk_held(directory)
            warm_blobs(site.registry)
            settle()
            site.registry.clear_requests()
            memory.reset()
            found = asyncio.run(self._run(node))
            if self.with_tree:
                found["memory"] = memory.peak / MB
                found["disk"] = (disk_held(directory) - before) / MB
        roots.spend(directory)
        return found

    async def _run(self, node: Node) -> dict[str, float]:
        busy, start = busy_seconds(), time.perf_counter()
        await asyncio.to_thread(node.bring, self.reference)
        found = {"brought": time.perf_counter() - start}
        async with Cri(node.address, seconds=LONGEST) as cri, cri.running(self.reference) as container:
            await execute(cri, container, self.course.image.hello)
            found["hello"] = time.perf_counter() - start
            found["cpu_hello"] = busy_seconds() - busy
            found |= self._registry("_hello")
            if self.with_tree:
                begin = time.perf_counter()
                await execute(cri, container, ["python3", "-c", TREE])
                found["tree"] = time.perf_counter() - begin
                found["cpu"] = busy_seconds() - busy
                found |= self._registry("")
        return found

    def _registry(self, suffix: str) -> dict[str, float]:
        answers = self.course.site.registry.requests()
        return {f"wire{suffix}": sum(answer.sent for answer in answers) / MB, f"requests{suffix}": len(answers)}


def compare(table: Table) -> Measured:
    """The table, and ours beside each that stands in it: who is first on a node that has nothing."""
    ours = table.line("imagecache-proxy").figures["hello"]
    rows = [
        Row("cold node, 1,000 MB: hello", ours, line.figures["hello"], line.title, Goal(1.0), note=f"beside {line.key}")
        for line in table.lines
        if not line.key.startswith("imagecache")
    ]
    return Measured(rows, [table])


async def execute(cri: Cri, container: str, argv: Sequence[str]) -> str:
    """Standard output. Raises RuntimeError: a figure of a failed run is worth nothing."""
    done = await cri.exec_sync(container, argv)
    if done.code:
        raise RuntimeError(f"{argv[:2]} ended with {done.code}: {done.stderr[-2000:]}")
    return done.stdout


def warm_blobs(registry: Registry) -> None:
    """Its disk is not what is measured."""
    read_all(registry.blobs())
