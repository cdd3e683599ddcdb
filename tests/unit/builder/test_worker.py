"""Workers: one whose parent goes away, and how long they stay."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from imagecache import sandbox
from imagecache.builder import layer_file
from imagecache.builder.converted import Converted
from imagecache.builder.worker_messages import Available, Convert, Derive, encode
from imagecache.builder.worker_pool import Worker, WorkerPool
from imagecache.digest import DiffID, Digest
from imagecache.erofs.reader import LayerImage
from imagecache.errors import SandboxUnavailable, WorkerKilled
from testkit.tars import DIRECTORY, Entry, tar


def test_an_answer_that_nobody_waits_for_ends_the_worker_without_a_word() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    answering, asking = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    passed = [theirs.fileno(), asking.fileno()]
    argv = [sys.executable, "-I", "-m", "imagecache.builder.worker", *map(str, (*passed, 0))]
    with ours, theirs, answering, asking:
        ours.send(encode(Available(1)))  # before it reads: it answers, and the parent has gone
        ours.shutdown(socket.SHUT_RD)
        done = subprocess.run(argv, pass_fds=passed, stderr=subprocess.PIPE, check=False, timeout=30)

    assert (done.returncode, done.stderr) == (0, b"")


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def alive(worker: Worker) -> bool:
    return is_there(worker.pid)


async def test_a_pool_that_is_seldom_used_keeps_workers_as_long_as_there_is_work() -> None:
    async with WorkerPool(2, seldom=True) as pool:
        async with pool.worker("app:1") as first:
            async with pool.worker("app:1") as second:
                pass
            async with pool.worker("app:1") as again:
                assert again is second
            assert alive(second)

        assert not alive(first)
        assert not alive(second)


async def test_what_holds_for_a_worker() -> None:
    """As the kernel has it: nobody's process that only root may look into, in the sandbox, without an environment."""
    async with WorkerPool(1) as pool, pool.worker("app:1") as worker:
        async with asyncio.timeout(30):
            while len(sandbox.in_force(worker.pid)) < len(sandbox.LOCKS):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.01)
        process = Path(f"/proc/{worker.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())

        assert status["Uid"].split() == ["65534"] * 4
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        assert (process / "environ").read_bytes() == b""
        assert (process / "mem").stat().st_uid == 0, "it is dumpable: what is not is root's"
        assert (process / "oom_score_adj").read_text().strip() == "1000"


async def test_a_worker_that_cannot_give_up_its_rights_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a machine whose system calls are not known. No layer is to blame."""
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
shift 3
exec {sys.executable} -I -c '
import platform, runpy
platform.machine = lambda: "riscv64"
runpy.run_module("imagecache.builder.worker", run_name="__main__", alter_sys=True)
' "$@"
"""
    )
    python.chmod(0o755)
    data = tar(Entry(b"f", content=b"x" * 100))
    blob, image = tmp_path / "blob", tmp_path / "image"
    blob.write_bytes(data)
    monkeypatch.setattr(sys, "executable", str(python))

    with blob.open("rb") as source, image.open("w+b") as target:
        async with WorkerPool(1) as pool:
            with pytest.raises(SandboxUnavailable, match="could not give up its rights, so it reads none") as caught:
                await convert(pool, data, [source.fileno(), target.fileno()])
        assert source.tell() == 0

    assert "imagecache doctor" in caught.value.hint
    assert image.read_bytes() == b""
    assert "no layer is read here" in capfd.readouterr().err


async def test_a_worker_that_ends_before_it_has_its_job(tmp_path: Path) -> None:
    """An idle one may be the first that the kernel ends when memory runs out."""
    data = tar(Entry(b"f", content=b"x"))
    (tmp_path / "blob").write_bytes(data)
    with (tmp_path / "blob").open("rb") as source, (tmp_path / "image").open("w+b") as target:
        async with WorkerPool(1) as pool:
            async with pool.worker("app:1") as idle:
                pass
            os.kill(idle.pid, signal.SIGKILL)
            await asyncio.to_thread(os.waitid, os.P_PID, idle.pid, os.WEXITED | os.WNOWAIT)

            with pytest.raises(WorkerKilled, match="SIGKILL"):
                await convert(pool, data, [source.fileno(), target.fileno()])


async def convert(pool: WorkerPool, data: bytes, fds: list[int]) -> None:
    async with pool.worker("app:1") as worker:
        job = Convert(blob=None, size=len(data), diff_id=DiffID(Digest.sha256(data)), bottom=True)
        worker.start(job, fds, lambda size: size)
        await worker.send(Available(len(data)))
        await worker.result(Converted, lambda _consumed: None)


async def test_a_worker_reads_layers_of_one_image() -> None:
    """And with those that wait there are never more of them than the pool has room for."""
    seen: dict[str, list[int]] = {"one:1": [], "other:1": []}
    async with WorkerPool(2) as pool:
        pool.prepare()
        for image in ("one:1", "one:1", "other:1", "one:1", "other:1", "other:1"):
            async with pool.worker(image) as worker:
                seen[image].append(worker.pid)
        assert len(set(seen["one:1"])) == len(set(seen["other:1"])) == 1
        assert not set(seen["one:1"]) & set(seen["other:1"])
        async with pool.worker("third:1") as worker:
            assert {pid for pid in (*seen["one:1"], *seen["other:1"]) if is_there(pid)} == set(seen["other:1"])
            assert worker.pid not in {*seen["one:1"], *seen["other:1"]}


@pytest.mark.parametrize("other", [False, True])
async def test_a_layer_that_waits_for_those_below_is_completed_in_the_same_worker_or_in_another(
    tmp_path: Path, *, other: bool
) -> None:
    """The same one has parsed it already; the file is the same."""
    data = tar(Entry(b"etc/hosts", content=b"x"))  # without an entry for ``etc``
    diff_id = DiffID(Digest.sha256(data))
    below, blob, image = (tmp_path / name for name in ("below", "blob", "image"))
    layer_file.build(io.BytesIO(tar(Entry(b"etc/", DIRECTORY, mode=0o711))), below)
    blob.write_bytes(data)
    with blob.open("rb") as source, image.open("w+b") as target, below.open("rb") as lower:
        async with WorkerPool(2) as pool, pool.worker("app:1") as first, pool.worker("app:1") as second:
            convert = Convert(blob=None, size=len(data), diff_id=diff_id, bottom=False)
            first.start(convert, [source.fileno(), target.fileno()], lambda size: size)
            await first.send(Available(len(data)))
            unfinished = await first.result(Converted, lambda _consumed: None)
            last = second if other else first
            derive = Derive(tar_size=len(data), diff_id=diff_id, bottom=False)
            last.start(derive, [target.fileno(), lower.fileno()], lambda size: size)
            made = await last.result(Converted, lambda _consumed: None)

    assert unfinished.digest is None
    with LayerImage.open(image) as found:
        assert stat.S_IMODE(found.tree().children[b"etc"].mode) == 0o711
    assert made.digest == layer_file.verify(image, diff_id, lower=[below]).digest
