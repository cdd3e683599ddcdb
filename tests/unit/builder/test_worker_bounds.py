"""What a worker may take for one layer: memory, processor time, bytes of its file; what follows when it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagecache.builder.bundle_builder import BuildSettings, BundleBuilder
from imagecache.builder.converted import Converted
from imagecache.builder.resolve_platforms import Platforms
from imagecache.builder.worker_bounds import window_in
from imagecache.builder.worker_messages import Available, Convert
from imagecache.builder.worker_pool import Grant, Worker, WorkerPool
from imagecache.clock import SystemClock
from imagecache.digest import DiffID, Digest
from imagecache.erofs.layer_header import DATA_START
from imagecache.errors import ImageTooLarge, LimitExceeded, NoSpace, WorkerKilled
from imagecache.limits import DEFAULT, GIB, KIB, MIB
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.reference import Reference
from imagecache.store.store import Store
from testkit.images_oci import AMD64, memory_image
from testkit.registry import MemorySource
from testkit.tars import Entry, sparse_file, tar


@dataclass
class Job:
    """One layer, uncompressed, and the file that a worker writes."""

    data: bytes
    source: int
    target: int

    def start(self, worker: Worker, grant: Grant, largest: int = 0) -> None:
        digest = Digest.sha256(self.data)
        convert = Convert(blob=digest, size=len(self.data), diff_id=DiffID(digest), bottom=False, largest=largest)
        worker.start(convert, [self.source, self.target], grant)

    async def run(self, worker: Worker, grant: Grant, largest: int = 0) -> Converted:
        self.start(worker, grant, largest)
        await worker.send(Available(len(self.data)))
        return await worker.result(Converted, lambda _consumed: None)

    @property
    def written(self) -> int:
        return os.fstat(self.target).st_size


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = _job(tmp_path, tar(*(Entry(b"f%d" % number, content=bytes(MIB)) for number in range(12))))
    yield made
    os.close(made.source)
    os.close(made.target)


def _job(directory: Path, data: bytes) -> Job:
    (directory / "blob").write_bytes(data)
    source = os.open(directory / "blob", os.O_RDONLY)
    return Job(data, source, os.open(directory / "layer", os.O_RDWR | os.O_CREAT))


async def test_nothing_is_written_that_was_not_granted(job: Job) -> None:
    asked: list[int] = []

    def grant(size: int) -> int:
        assert job.written <= max(asked, default=0)
        asked.append(size)
        return size

    async with WorkerPool(1) as pool, pool.worker("app:1") as worker:
        converted = await job.run(worker, grant)
    assert job.written == converted.size == max(asked)
    assert asked == sorted(asked)
    assert len(asked) > 10


async def test_a_refusal_is_the_error_of_the_job(job: Job) -> None:
    def grant(size: int) -> int:
        if size > 3 * MIB:
            raise ImageTooLarge("no room")
        return size

    async with WorkerPool(1) as pool:
        with pytest.raises(ImageTooLarge, match=r"^no room$"):
            async with pool.worker("app:1") as worker:
                await job.run(worker, grant)
    assert DATA_START < job.written <= 3 * MIB


async def test_the_filesystem_behind_the_tar_is_asked_for_too(job: Job) -> None:
    sizes = [DATA_START + len(job.data)]

    def grant(size: int) -> int:
        if size > sizes[0]:
            raise ImageTooLarge("no room")
        return sizes[0]

    async with WorkerPool(1) as pool:
        with pytest.raises(ImageTooLarge):
            async with pool.worker("app:1") as worker:
                await job.run(worker, grant)
    assert job.written == sizes[0]


async def test_holes_of_sparse_files_are_not_asked_for(tmp_path: Path) -> None:
    job = _job(tmp_path, tar(sparse_file(b"hole", DEFAULT.layer_uncompressed, {})))
    async with WorkerPool(1) as pool, pool.worker("app:1") as worker:
        converted = await job.run(worker, lambda size: size, largest=64 * KIB)
    os.close(job.source)
    os.close(job.target)
    assert converted.size < 64 * KIB


async def test_the_kernel_bounds_the_file_whatever_was_granted(job: Job) -> None:
    async with WorkerPool(1) as pool:
        with pytest.raises(NoSpace):
            async with pool.worker("app:1") as worker:
                await job.run(worker, lambda size: size, largest=2 * MIB)
    assert job.written <= 2 * MIB


async def test_a_worker_serves_again_after_a_bound_was_reached(job: Job) -> None:
    async with WorkerPool(1) as pool, pool.worker("app:1") as worker:
        with pytest.raises(NoSpace):
            await job.run(worker, lambda size: size, largest=2 * MIB)
        os.ftruncate(job.target, 0)
        assert (await job.run(worker, lambda size: size)).size == job.written


async def test_memory_that_is_not_there_is_a_limit(tmp_path: Path) -> None:
    job = _job(tmp_path, tar(*(Entry(b"%d" % number) for number in range(60_000))))
    try:
        async with WorkerPool(1, memory=64 * MIB) as pool:
            with pytest.raises(LimitExceeded, match="more memory") as caught:
                async with pool.worker("app:1") as worker:
                    await job.run(worker, lambda size: size)
        assert "controller.resources.limits.memory" in caught.value.hint
        async with WorkerPool(1, memory=512 * MIB) as pool, pool.worker("app:1") as worker:
            os.ftruncate(job.target, 0)
            await job.run(worker, lambda size: size)
    finally:
        os.close(job.source)
        os.close(job.target)


async def test_a_window_that_does_not_fit_the_memory_is_a_limit(tmp_path: Path) -> None:
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([17 << 3]) + b"\x01\x00\x00"  # a window of 128 MiB, an empty block
    job = _job(tmp_path, frame)
    try:
        async with WorkerPool(1, memory=256 * MIB) as pool, pool.worker("app:1") as worker:
            with pytest.raises(LimitExceeded, match=f"window of {128 * MIB} bytes, over the limit of {64 * MIB}"):
                await job.run(worker, lambda size: size)
    finally:
        os.close(job.source)
        os.close(job.target)


@pytest.mark.parametrize(("memory", "window"), [(0, 512), (768, 512), (384, 192), (100, 8)])
def test_windows_fit_the_memory_of_a_worker(memory: int, window: int) -> None:
    assert window_in(memory * MIB, DEFAULT).zstd_window == window * MIB


async def test_processor_time_that_is_used_up_is_a_limit(job: Job) -> None:
    began = asyncio.Event()

    def grant(size: int) -> int:
        began.set()
        return size

    async with WorkerPool(1) as pool, pool.worker("app:1") as worker:
        job.start(worker, grant)
        await worker.send(Available(2 * MIB))  # and then it waits for more
        await began.wait()
        os.kill(worker.pid, signal.SIGXCPU)
        with pytest.raises(LimitExceeded, match="more processor time than worker_time"):
            await worker.result(Converted, lambda _consumed: None)


BURN = """
import sys
from dataclasses import replace
from imagecache.builder.worker_bounds import ProcessorTime
from imagecache.limits import DEFAULT
import resource
time = ProcessorTime(replace(DEFAULT, worker_time=0.1, worker_rate=1000), lambda: sys.exit("late"))
for size in (2000, 100):
    time.allow(size)
    print(resource.getrlimit(resource.RLIMIT_CPU)[0])
while True:
    pass
"""


def test_the_kernel_says_when_the_processor_time_is_used_up() -> None:
    done = subprocess.run([sys.executable, "-c", BURN], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, "late")
    assert [int(word) for word in done.stdout.split()] == [3, 1]


async def test_a_worker_is_the_first_to_end_when_memory_runs_out(job: Job) -> None:
    async with WorkerPool(1, memory=300 * MIB) as pool, pool.worker("app:1") as worker:
        await job.run(worker, lambda size: size)
        process = Path(f"/proc/{worker.pid}")
        assert (process / "oom_score_adj").read_text() == "1000\n"
        (line,) = [each for each in (process / "limits").read_text().splitlines() if each.startswith("Max data size")]
        assert line.split()[3:5] == [str(300 * MIB)] * 2


async def test_a_worker_that_is_killed_names_the_signal(job: Job) -> None:
    async with WorkerPool(1) as pool, pool.worker("app:1") as worker:
        job.start(worker, lambda size: size)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerKilled, match="was ended by SIGKILL"):
            await worker.result(Converted, lambda _consumed: None)


class Deadly(MemorySource):
    """Whoever reads the first bytes of a layer dies of it, so many times."""

    times = 0
    killed = 0

    async def stream(self, reference: Reference, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes]:
        if self.killed < self.times:
            self.killed += 1
            for pid in _workers():
                os.kill(pid, signal.SIGKILL)
            await asyncio.Event().wait()  # until the build has seen it
        async for piece in super().stream(reference, descriptor, offset):
            yield piece


def _workers() -> list[int]:
    """Worker processes of this one."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if b"imagecache.builder.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def _build(store: Path, source: MemorySource) -> None:
    builder = BundleBuilder(Store.open(store), SystemClock(), BuildSettings(jobs=1))
    await builder.build(
        "imc-" + "a" * 20,
        ["app:1"],
        platforms=Platforms((AMD64,), complete=True),
        size_limit=GIB,
        source=source,
        emit=lambda _event: None,
    )


async def test_a_layer_that_killed_a_worker_is_tried_once_more(tmp_path: Path) -> None:
    source = Deadly({"app:1": memory_image([tar(Entry(b"f", content=bytes(MIB)))])})
    source.times = 1
    await _build(tmp_path, source)
    assert source.killed == 1


async def test_a_layer_that_kills_every_worker_fails_its_build(tmp_path: Path) -> None:
    source = Deadly({"app:1": memory_image([tar(Entry(b"f", content=bytes(MIB)))])})
    source.times = 5
    with pytest.raises(WorkerKilled, match=r"^app:1: layer [0-9a-f]+: .* SIGKILL, for the second time$") as caught:
        await _build(tmp_path, source)
    assert source.killed == 2
    assert "controller.resources.limits.memory" in caught.value.hint
