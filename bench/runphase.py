"""What a container gets once it runs: reads with cold caches, and the memory that they cost.

The same programs in containers of the same image, one node after the other, caches dropped before each. Page cache is
the growth of the kernel's own counter while nothing else runs.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from bench.nodes import TRIM_DELAY, Field, caching, ordinary, pull
from bench.samples import Goal, Row, Samples
from testkit.peers.cri import Cri

_TREE = """
import os, time
start = time.perf_counter()
total = 0
for folder, _, names in os.walk('/', followlinks=False):
    if folder == '/': _[:] = [d for d in _ if d not in ('proc', 'sys', 'dev')]
    for name in names:
        path = folder + '/' + name
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, 'rb', buffering=0) as file:
                while data := file.read(1 << 20): total += len(data)
print(time.perf_counter() - start, total)
"""
_FIND = """
import os, time
start = time.perf_counter()
count = 0
stack = ['/']
while stack:
    folder = stack.pop()
    with os.scandir(folder) as entries:
        for entry in entries:
            count += 1
            entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False) and entry.path not in ('/proc', '/sys', '/dev'):
                stack.append(entry.path)
print(time.perf_counter() - start, count)
"""
_IMPORT = """
import time
start = time.perf_counter()
import numpy, pandas, scipy.stats, scipy.optimize, sklearn.linear_model, pyarrow
print(time.perf_counter() - start, 0)
"""
_RANDOM = """
import os, random, time
random.seed(7)
files = []
for folder, _, names in os.walk('/usr'):
    for name in names:
        path = folder + '/' + name
        if not os.path.islink(path) and os.path.getsize(path) > 1 << 20: files.append((path, os.path.getsize(path)))
files.sort()
picks = [(p, random.randrange(s // 4096) * 4096) for p, s in (random.choice(files) for _ in range(6000))]
handles = {path: os.open(path, os.O_RDONLY) for path, _ in files}
start = time.perf_counter()
for path, offset in picks: os.pread(handles[path], 4096, offset)
print(time.perf_counter() - start, len(picks))
"""
_VARIED = "import of numpy, pandas, scipy, sklearn, pyarrow"
"""It differs by a tenth from run to run, and what is compared by less."""
_MORE = 3
"""Turns of that beside the one of each round."""
_PROGRAMS = {
    _VARIED: (_IMPORT, Goal("≥ 1.0×", 1.0, at_least=True)),
    "read the whole tree": (_TREE, Goal("≥ 1.0×", 1.0, at_least=True)),
    "find (stat everything)": (_FIND, Goal("≥ 1.0×", 1.0, at_least=True)),
    "6,000 random 4 KiB reads": (_RANDOM, Goal("≥ 0.75×", 0.75, at_least=True)),
}
_SETTLE = 1.0


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def cached_bytes() -> int:
    """Page cache and buffers of the machine."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Cached", "Buffers"))


class Contender:
    """One node with the image on it."""

    def __init__(self, name: str, address: Path, reference: str) -> None:
        self.name = name
        self.address = address
        self.reference = reference
        self.times = {program: Samples() for program in _PROGRAMS}
        self.memory = {count: Samples() for count in (1, 3)}

    async def cold(self, program: str) -> float:
        """Seconds that the program reports, in a fresh container, caches dropped after its start."""
        async with Cri(self.address, seconds=600) as cri, cri.running(self.reference) as container:
            drop_caches()
            done = await cri.exec_sync(container, ["python3", "-c", _PROGRAMS[program][0]])
            assert done.code == 0, done.stderr  # noqa: S101 - a figure of a failed run is worth nothing
            return float(done.stdout.split()[0])

    async def held(self, count: int) -> float:
        """MB of page cache after ``count`` containers have read the whole tree, one after the other, and the trim."""
        async with Cri(self.address, seconds=600) as cri, AsyncExitStack() as stack:
            running = [await stack.enter_async_context(cri.running(self.reference)) for _ in range(count)]
            drop_caches()
            before = cached_bytes()
            for container in running:
                await cri.exec_sync(container, ["python3", "-c", _TREE])
            return (await self._settled(cri, stack) - before) / 1e6

    async def _settled(self, cri: Cri, stack: AsyncExitStack) -> int:
        """A last container starts, as happens on a node, and the agent trims some seconds after."""
        await stack.enter_async_context(cri.running(self.reference))
        await asyncio.sleep(TRIM_DELAY + _SETTLE)
        return cached_bytes()


def measure(place: Field, rounds: int) -> list[Row]:
    with ExitStack() as stack:
        store = place.directory / "shared-store"
        plain = ordinary(stack, place, "2.4")
        pull(plain.address, place.reference)
        peer = Contender("overlayfs", plain.address, place.reference)
        contenders = [peer]
        for mode in ("proxy", "native"):
            node = caching(stack, place, "2.4", mode, store)
            if "app" not in node.command("get", "-o", "name"):
                node.create("app", [place.reference], "--no-attach")
            pull(node.address, place.reference)
            contenders.append(Contender(mode, node.address, place.reference))
        for _ in range(rounds):
            for contender in contenders:
                for program in _PROGRAMS:
                    contender.times[program].values.append(asyncio.run(contender.cold(program)))
                for count in contender.memory:
                    contender.memory[count].values.append(asyncio.run(contender.held(count)))
            for turn in range(_MORE):
                for contender in contenders[turn:] + contenders[:turn]:
                    contender.times[_VARIED].values.append(asyncio.run(contender.cold(_VARIED)))
    return [row for contender in contenders[1:] for row in _rows(contender, peer)]


def _rows(ours: Contender, peer: Contender) -> list[Row]:
    judged = ours.name == "proxy"
    rows = [
        Row(
            f"{program}, cold", ours.times[program], peer.times[program], goal if judged else None, True, note=ours.name
        )
        for program, (_, goal) in _PROGRAMS.items()
    ]
    goal = Goal("≤ 1.15×", 1.15) if judged else None
    rows += [
        Row(
            f"page cache, {count} container{'s' if count > 1 else ''}",
            samples,
            peer.memory[count],
            goal,
            unit="MB",
            note=ours.name,
        )
        for count, samples in ours.memory.items()
    ]
    return rows
