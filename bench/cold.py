"""A node that has nothing: from the wish for an image to a container that works, and to its whole tree read.

Every turn is a fresh node in a fresh directory. In it: what the contender does to bring the image, a container, the
image's hello program in it (the first figure that a user feels), then every file of the image (what a lazy contender
has only put off). Contenders take turns in an order that moves by one each round.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.contender import LONGEST, Contender, Node, Site
from bench.figures import Figure, Line, Table
from bench.fresh import Roots, settle
from bench.images import BenchImage
from bench.meter import Meter, disk_held
from bench.programs import TREE
from testkit.peers.cri import Cri
from testkit.peers.registry import Registry

_MB = 1e6
COLUMNS = (
    Figure("hello", "hello", "s"),
    Figure("brought", "of it until the image is there", "s"),
    Figure("tree", "whole tree right after", "s"),
    Figure("wire_hello", "wire until hello", "MB"),
    Figure("wire", "wire in all", "MB"),
    Figure("requests", "requests", ""),
    Figure("disk", "disk held", "MB"),
    Figure("cpu", "CPU in all", "s"),
    Figure("memory", "peak memory", "MB"),
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
    """In how many of them the whole tree is read: lazy contenders take a minute for it."""


def measure(course: Course, contenders: Sequence[Contender], roots: Roots) -> Table:
    """Raises whatever a contender raises: a table with a hole proves nothing."""
    image = course.image.image()
    references = {one.key: one.publish(course.site, image, f"{course.image.key}/{one.key}:1") for one in contenders}
    lines = [Line(one.key, one.title, one.durable, {}) for one in contenders]
    for number in range(course.rounds):
        for step in range(len(contenders)):
            at = (number + step) % len(contenders)
            one = contenders[at]
            turn = Turn(course, one, references[one.key], with_tree=number < course.tree_rounds)
            lines[at].add(**turn.take(roots))
    return Table(course.key, course.title, COLUMNS, lines)


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender, once."""

    course: Course
    contender: Contender
    reference: str
    with_tree: bool

    def take(self, roots: Roots) -> dict[str, float]:
        site, directory = self.course.site, roots.fresh(self.contender.key)
        with Meter() as meter, self.contender.node(site, directory) as node:
            before = disk_held(directory)
            settle()
            warm_blobs(site.registry)
            site.registry.clear_requests()
            meter.reset_peak()
            spent = meter.processor_seconds
            found = asyncio.run(self._run(node))
            found["cpu"] = meter.processor_seconds - spent
            found["memory"] = meter.peak_memory / _MB
            answers = site.registry.requests()
            if self.with_tree:
                found["wire"] = sum(answer.sent for answer in answers) / _MB
                found["requests"] = len(answers)
                found["disk"] = (disk_held(directory) - before) / _MB
            else:
                found = {key: found[key] for key in ("hello", "brought", "wire_hello")}
        return found

    async def _run(self, node: Node) -> dict[str, float]:
        found = {}
        start = time.perf_counter()
        await asyncio.to_thread(node.bring, self.reference)
        found["brought"] = time.perf_counter() - start
        async with Cri(node.address, seconds=LONGEST) as cri, cri.running(self.reference) as container:
            await execute(cri, container, self.course.image.hello)
            found["hello"] = time.perf_counter() - start
            found["wire_hello"] = sum(answer.sent for answer in self.course.site.registry.requests()) / _MB
            if self.with_tree:
                begin = time.perf_counter()
                await execute(cri, container, ["python3", "-c", TREE])
                found["tree"] = time.perf_counter() - begin
        return found


async def execute(cri: Cri, container: str, argv: Sequence[str]) -> str:
    """Standard output. Raises RuntimeError: a figure of a failed run is worth nothing."""
    done = await cri.exec_sync(container, argv)
    if done.code:
        raise RuntimeError(f"{argv[:2]} ended with {done.code}: {done.stderr[-2000:]}")
    return done.stdout


def warm_blobs(registry: Registry) -> None:
    """Read the registry's blobs, so that it answers from memory in every turn: its disk is not what is measured."""
    for path in registry.blobs():
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
