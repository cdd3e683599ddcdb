"""One gzip layer on several cores: the same layer image as on one, or the plain decoder's error."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from imagecache.builder.converted import Converted
from imagecache.builder.layer_file import build
from imagecache.builder.worker_messages import Available, Convert, ToWorker
from imagecache.builder.worker_pool import Grant, Worker, WorkerPool
from imagecache.digest import DiffID, Digest
from imagecache.errors import ContentError, DigestMismatch, InternalError, Interrupted, WorkerKilled
from imagecache.limits import MIB
from testkit.images_oci import memory_image
from testkit.registry import MemorySource
from tests.unit.builder.test_bundle_builder import Builds

THREADS = 4


def tar(size: int = 40 * MIB) -> bytes:
    """Text and noise, so that the stream has blocks of every kind."""
    source = random.Random(7)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, content in enumerate((source.randbytes(size), b"some text\n" * 400_000, bytes(8 * MIB))):
            info = tarfile.TarInfo(f"file-{number}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


TAR = tar()
DIFF_ID = DiffID(Digest.sha256(TAR))
LITTLE = tar(MIB)
SMALL = DiffID(Digest.sha256(LITTLE))
SOURCE = MemorySource({"app:1": memory_image([TAR, LITTLE])})


def packed(data: bytes, level: int = 6) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def all_of_it(size: int) -> int:
    """``Grant``: there is room."""
    return size


async def converted(directory: Path, blob: bytes, diff_id: DiffID = DIFF_ID, *, step: int = 0) -> Converted:
    """By a worker on several cores. ``step``: the blob arrives so many bytes at a time."""
    (directory / "blob").write_bytes(blob)
    source = os.open(directory / "blob", os.O_RDONLY)
    target = os.open(directory / "layer.erofs", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        async with WorkerPool(1) as pool, pool.worker("app:1", parallel=True) as worker:
            job = Convert(Digest.sha256(blob), len(blob), diff_id, bottom=False, threads=THREADS)
            worker.start(job, [source, target], all_of_it)
            result = asyncio.ensure_future(worker.result(Converted, lambda _consumed: None))
            for there in range(step, len(blob), step) if step else ():
                await worker.send(Available(there))
            await worker.send(Available(len(blob)))
            return await result
    finally:
        os.close(source)
        os.close(target)


@pytest.mark.parametrize(
    ("blob", "step"),
    [
        (packed(TAR), 0),
        (packed(TAR), 3 * MIB),
        (packed(TAR, 0), 0),
        (packed(TAR[: 9 * MIB]) + packed(TAR[9 * MIB :]), 0),
    ],
    ids=["whole", "as it arrives", "stored blocks", "two members"],
)
async def test_the_same_layer_image_as_on_one_core(tmp_path: Path, blob: bytes, step: int) -> None:
    (tmp_path / "plain.gz").write_bytes(blob)
    with (tmp_path / "plain.gz").open("rb") as source:
        plain = build(source, tmp_path / "plain.erofs")

    found = await converted(tmp_path, blob, step=step)

    assert (found.threads, plain.threads) == (THREADS, 1)
    assert (found.digest, found.header, found.size) == (plain.digest, plain.header, plain.size)
    assert (tmp_path / "layer.erofs").read_bytes() == (tmp_path / "plain.erofs").read_bytes()


@pytest.mark.parametrize(
    ("announced", "problem"),
    [(-1, Interrupted), (2 * len(LITTLE), InternalError), (None, None)],
    ids=["stopped", "shorter than announced", "the build is gone"],
)
async def test_a_download_that_does_not_come_ends_the_work(
    tmp_path: Path, announced: int | None, problem: type[Exception] | None
) -> None:
    """Rapidgzip waits for bytes, and the worker has the download's lock until it ends."""
    blob = packed(LITTLE)
    (tmp_path / "blob").write_bytes(blob[: MIB // 2])
    with (tmp_path / "blob").open("rb") as source, (tmp_path / "layer.erofs").open("w+b") as target:
        worker = Worker(parallel=True)
        size = announced if announced is not None and announced > 0 else len(blob)
        worker.start(
            Convert(Digest.sha256(blob), size, SMALL, bottom=False, threads=THREADS),
            [source.fileno(), target.fileno()],
            all_of_it,
        )
        await worker.send(Available(MIB // 4))
        if announced is None or problem is None:
            await asyncio.sleep(1)
            worker._socket.close()
            assert await asyncio.to_thread(worker._process.wait, 20) == 0
            worker.kill()
            return
        await worker.send(Available(announced))
        with pytest.raises(problem):
            await asyncio.wait_for(worker.result(Converted, lambda _consumed: None), 20)
        worker.kill()


async def test_what_is_no_gzip_is_read_as_it_is(tmp_path: Path) -> None:
    found = await converted(tmp_path, TAR)

    assert (found.threads, found.compression) == (1, "none")


@pytest.mark.parametrize(
    ("blob", "problem"),
    [
        (packed(TAR)[: 30 * MIB], ContentError),
        (packed(TAR)[: 20 * MIB] + bytes(MIB) + packed(TAR)[21 * MIB :], ContentError),
        (packed(TAR) + bytes(512), ContentError),
        (packed(TAR + b"x" * 512), DigestMismatch),
    ],
    ids=["cut off", "damaged", "zeros behind it", "another tar"],
)
async def test_what_is_wrong_is_refused(tmp_path: Path, blob: bytes, problem: type[Exception]) -> None:
    with pytest.raises(problem):
        await converted(tmp_path, blob)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    return Jobs(monkeypatch)


class Jobs:
    """What workers are given; ``changed`` is done to those on several cores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        self.changed: Callable[[Worker, Convert], Convert] = lambda _worker, job: job
        began = Worker.start

        def start(worker: Worker, job: ToWorker, fds: Sequence[int], grant: Grant | None = None) -> None:
            if isinstance(job, Convert):
                self.threads.append(job.threads)
                job = self.changed(worker, job) if job.threads else job
            began(worker, job, fds, grant)

        monkeypatch.setattr(Worker, "start", start)


async def test_a_large_layer_of_a_build_has_several_cores(tmp_path: Path, jobs: Jobs) -> None:
    bundle = await Builds(tmp_path / "store", jobs=8).build(SOURCE, "app:1")

    assert [layer.diff_id for layer in bundle.images[0].layers] == [DIFF_ID, SMALL]
    assert sorted(jobs.threads) == [0, 6]


async def test_what_comes_out_wrong_is_made_again_on_one(tmp_path: Path, jobs: Jobs) -> None:
    jobs.changed = lambda _worker, job: msgspec.structs.replace(job, diff_id=SMALL)
    bundle = await Builds(tmp_path / "store", jobs=8).build(SOURCE, "app:1")

    assert bundle.images[0].layers[0].diff_id == DIFF_ID
    assert sorted(jobs.threads) == [0, 0, 6]


async def test_a_decoder_that_dies_is_replaced_by_the_plain_one(tmp_path: Path, jobs: Jobs) -> None:
    def dies(worker: Worker, job: Convert) -> Convert:
        os.kill(worker.pid, signal.SIGKILL)  # as one that aborts, or that needs too much memory
        return job

    jobs.changed = dies
    bundle = await Builds(tmp_path / "store", jobs=8).build(SOURCE, "app:1")

    assert bundle.images[0].layers[0].diff_id == DIFF_ID
    assert sorted(jobs.threads) == [0, 0, 6]


def test_a_file_that_a_person_names(tmp_path: Path) -> None:
    """With the expected diffID; whether it has several cores, the machine decides."""
    (tmp_path / "l.tar.gz").write_bytes(packed(TAR))
    with (tmp_path / "l.tar.gz").open("rb") as source:
        built = build(source, tmp_path / "l.erofs", diff_id=DIFF_ID)
    with (tmp_path / "l.tar.gz").open("rb") as source, pytest.raises(DigestMismatch):
        build(source, tmp_path / "m.erofs", diff_id=DiffID(Digest.sha256(b"")))

    assert built.header.diff_id == DIFF_ID
    assert not (tmp_path / "m.erofs").exists()


def test_long_runs_of_zeros_fail_early_and_not_the_machine(tmp_path: Path) -> None:
    """Two gigabytes of zeros take rapidgzip more memory than its process may have, or they are right."""
    header = tarfile.TarInfo("zeros")
    header.size = 2 << 30
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    blob = packer.compress(header.tobuf())
    blob += (
        b"".join(packer.compress(bytes(MIB)) for _ in range(2 << 10)) + packer.compress(bytes(1024)) + packer.flush()
    )
    try:
        found = asyncio.run(converted(tmp_path, blob))
    except (ContentError, WorkerKilled):
        return
    assert found.header.tar_size == (2 << 30) + 1536
