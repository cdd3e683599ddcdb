"""A worker whose parent goes away."""

from __future__ import annotations

import socket
import subprocess
import sys

from imagecache.build.messages import Available, encode


def test_an_answer_that_nobody_waits_for_ends_the_worker_without_a_word() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = [sys.executable, "-I", "-m", "imagecache.build.worker", str(theirs.fileno())]
    with ours, theirs:
        ours.send(encode(Available(1)))  # before it reads: it answers, and the parent has gone
        ours.shutdown(socket.SHUT_RD)
        done = subprocess.run(argv, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, check=False, timeout=30)

    assert (done.returncode, done.stderr) == (0, b"")
