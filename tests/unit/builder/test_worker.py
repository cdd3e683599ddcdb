"""Workers: one whose parent goes away, and how long they stay."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from imagecache.builder.worker_messages import Available, encode
from imagecache.builder.worker_pool import Worker, WorkerPool


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


def alive(worker: Worker) -> bool:
    return Path(f"/proc/{worker.pid}").exists()


async def test_a_pool_that_is_seldom_used_keeps_workers_as_long_as_there_is_work() -> None:
    async with WorkerPool(2, seldom=True) as pool:
        async with pool.worker() as first:
            async with pool.worker() as second:
                pass
            async with pool.worker() as again:
                assert again is second
            assert alive(second)

        assert not alive(first)
        assert not alive(second)
