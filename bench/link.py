"""A network of a given rate and round trip between clients and one server, on one machine.

The kernel could do it (netem), and the one here is built without (``CONFIG_NET_SCH_NETEM is not set``), so a TCP
forwarder does, in a process of its own (``bench/forwarder.py``). What it is like, and what not:

- **Rate**: that of the wire. TCP's payload is 1448 of the 1538 bytes that a full packet occupies on Ethernet (MTU 1500,
  IPv4, timestamps, preamble and gap), so 1 Gbit/s carries 117.7 MB/s. All connections share it in turns, each
  direction by itself; the acknowledgements that a real wire carries against the stream are left out (about 3 %).
- **Round trip**: half of it for all bytes in each direction, and one for the handshake of each connection. A small
  answer to a small request comes one round trip later.
- **Buffers**: a connection holds the bandwidth-delay product, 10 ms of the wire and some 100 KB in sockets; a slow
  reader is felt by the sender. Without CAP_SYS_RESOURCE it holds no more than ``fs.pipe-max-size`` (1 MiB): one
  connection by itself then has all of 1 Gbit/s up to a round trip of 15 ms.
- **Cost**: the process has real-time priority where that is allowed, and takes its time from the processors that are
  measured: about a tenth of one at 1 Gbit/s. ``Counts.cpu`` has it.
- **Not there**: loss, slow start and anything else that makes a real network slower than its rate. What is measured
  over it is a bound: each connection of a real one takes some round trips longer to get up to speed.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from testkit.peers.programs import PeerFailed

PAYLOAD = 1448 / 1538
"""Share of an Ethernet's bits that are TCP's payload: 1500 - 20 - 20 - 12 of 1500 + 14 + 4 + 8 + 12 bytes."""
_FORWARDER = Path(__file__).with_name("forwarder.py")
_LONGEST = 10.0
"""Seconds that the process may take to end."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the link began. Bytes are those of TCP's streams that were put on the wire."""

    sent: int
    """Clients to target."""
    received: int
    """Target to clients."""
    connections: int
    open: int
    """Connections that are open now."""
    cpu: float
    """Seconds that the forwarder itself took from the processors."""


class Link:
    """A context manager; clients connect to ``address`` while it is open."""

    def __init__(self, target: tuple[str, int], rate_bits: int | None, rtt: float, *, host: str = "127.0.0.1") -> None:
        """``target`` is an IPv4 address and a port; ``rate_bits`` a second, None for no limit; ``rtt`` in seconds.

        ``host`` is the address of this machine that clients reach.
        """
        self.rate = rate_bits * PAYLOAD / 8 if rate_bits else 0.0
        """Payload in bytes a second; 0 without a limit."""
        self.rtt = rtt
        self._host = host
        self._argv = [sys.executable, "-I", str(_FORWARDER), host, target[0], *map(str, (target[1], self.rate, rtt))]
        self._process: subprocess.Popen[str] | None = None
        self._port = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self._port = self._line(self._process)
        except PeerFailed:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with process, contextlib.suppress(BrokenPipeError):  # killed, with an unread question in the pipe
            assert process.stdin is not None  # noqa: S101 - opened with it
            process.stdin.close()
            try:
                process.wait(_LONGEST)
            except subprocess.TimeoutExpired:
                process.kill()

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self._host}:{self._port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    def counts(self) -> Counts:
        """Exact: what a client has received is counted. Raises PeerFailed when the process has ended."""
        process = self._running()
        assert process.stdin is not None  # noqa: S101 - opened with it
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerFailed(f"the link at {self.address} has ended") from error
        return Counts(**json.loads(self._line(process)))

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise PeerFailed("the link is not open")
        return self._process

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None  # noqa: S101 - opened with it
        line = process.stdout.readline().strip()
        if not line:
            raise PeerFailed(f"the link to {self._argv[4]}:{self._argv[5]} ended with {process.wait(_LONGEST)}")
        return line
