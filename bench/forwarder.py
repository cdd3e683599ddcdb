"""The process behind ``bench.link``: forwards TCP connections over two wires of a given rate and delay.

One thread, and bytes never enter it: ``splice`` moves pages from one socket into a pipe and from there to the other,
and the pipe is the delay line. It ends when its standard input does, so nothing outlives whoever started it. It must
import nothing but the standard library, and know nothing of what it forwards.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path

_QUANTUM_SECONDS = 0.0005
"""What one connection may send before another has its turn, as time on the wire: about 40 packets of 1 Gbit/s."""
_QUANTUM_LEAST, _QUANTUM_MOST = 1448, 1 << 20
_AHEAD = 0.001
"""Seconds that bytes may be taken before their turn on the wire, as a network card's queue does. They leave in time."""
_BUCKET = 0.004
"""Seconds of the wire that may be caught up with when this process was not scheduled in time. Only while somebody waits
for the wire: a wire that nobody uses saves nothing up."""
_SLACK = 0.010
"""Seconds of the wire that a connection may hold beside what is on its way."""
_UNLIMITED_PIPE = 1 << 20
_UNLIMITED_RATE = 1.25e9
"""Bytes a second, for the size of the pipe when the wire has a delay and no rate."""
_SOCKET_BUFFER = 1 << 18
"""Of our sockets when the wire has a rate: a slow reader is felt by the sender, and not hidden in the kernel."""
_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_PRIORITY = 1
"""Of real time, where that is allowed: a network takes no notice of how busy the machines on it are."""


class Wire:
    """One direction: all connections share it in turns."""

    def __init__(self, rate: float, delay: float) -> None:
        """Bytes a second, 0 for no limit; seconds."""
        self.rate = rate
        self.delay = delay
        self.free_at = 0.0
        self.bytes = 0
        self.waiting: deque[Lane] = deque()
        self.quantum = _QUANTUM_MOST
        self.hold = int(_UNLIMITED_RATE * delay) + _UNLIMITED_PIPE
        if rate:
            self.quantum = min(_QUANTUM_MOST, max(_QUANTUM_LEAST, int(rate * _QUANTUM_SECONDS)))
            self.hold = int(rate * (delay + _SLACK)) + 2 * self.quantum

    def next_turn(self) -> float | None:
        """When somebody who waits may send, on the monotonic clock."""
        if not self.waiting:
            return None
        return self.free_at - _AHEAD if self.rate else 0.0

    def take(self, now: float) -> None:
        """Put on the wire whatever has its turn."""
        while self.waiting and (not self.rate or self.free_at - now <= _AHEAD):
            lane = self.waiting.popleft()
            lane.waits = False
            if not lane.connection.closed:
                lane.take(now)

    def send(self, size: int, since: float, now: float) -> float:
        """Bytes that are ready since then occupy the wire. Returns when the last of them arrives."""
        self.bytes += size
        if not self.rate:
            return now + self.delay
        self.free_at = max(self.free_at, since, now - _BUCKET) + size / self.rate
        return self.free_at + self.delay


class Lane:
    """One direction of one connection. Bytes on their way are in a pipe, ``queue`` says when how many arrive."""

    def __init__(self, connection: Connection, wire: Wire, source: socket.socket, target: socket.socket) -> None:
        self.connection = connection
        self.wire = wire
        self.source = source
        self.target = target
        self.waits = False
        self.full = False
        """The pipe had no room, or the source no bytes: ``splice`` does not say which."""
        self.since = 0.0
        self.held = 0
        self.queue: deque[tuple[float, int]] = deque()
        """Arrival on the monotonic clock, and bytes; 0 bytes are the end."""
        self.ended = False
        self.writable = True
        self.outlet, self.inlet = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.hold = min(wire.hold, _resize(self.inlet, wire.hold))

    def wait_for_wire(self, now: float) -> None:
        if not self.waits and not self.ended:
            self.waits, self.full, self.since = True, False, now
            self.wire.waiting.append(self)

    def take(self, now: float) -> None:
        """At most a quantum from the source onto the wire."""
        room = min(self.wire.quantum, self.hold - self.held)
        if room <= 0:
            self.full = True
            return
        try:
            size = os.splice(self.source.fileno(), self.inlet, room, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            self.full = self.held > 0
            return
        except OSError:
            self.connection.close(reset=True)
            return
        # the end of a stream takes no time on the wire, and nobody knows since when it was there
        arrival = self.wire.send(size, self.since if size else now, now)
        self.queue.append((arrival, size))
        self.held += size
        self.connection.forwarder.moving.add(self)
        if size:
            self.wait_for_wire(now)
        else:
            self.ended = True

    def next_arrival(self) -> float | None:
        return self.queue[0][0] if self.queue and self.writable else None

    def deliver(self, now: float) -> None:
        """What has arrived, as far as the target has room."""
        while not self.connection.closed and self.queue and self.writable and self.queue[0][0] <= now:
            arrival, size = self.queue.popleft()
            try:
                sent = self._put(size)
            except BlockingIOError:
                self.writable, sent = False, 0
            except OSError:
                self.connection.close(reset=True)
                return
            self.held -= sent
            if sent < size:
                self.queue.appendleft((arrival, size - sent))
            if self.full and sent:
                self.wait_for_wire(now)
        if not self.queue and not self.connection.closed:
            self.connection.forwarder.moving.discard(self)
            if self.ended:
                self.connection.finish()

    def _put(self, size: int) -> int:
        if size:
            return os.splice(self.outlet, self.target.fileno(), size, flags=os.SPLICE_F_NONBLOCK)
        with contextlib.suppress(OSError):  # ENOTCONN: the other side has closed as well
            self.target.shutdown(socket.SHUT_WR)
        return 0


def _resize(pipe: int, wanted: int) -> int:
    """As many bytes as wanted, or as an ordinary user may have; the bytes that it got."""
    with contextlib.suppress(PermissionError):
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, wanted)
    most = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    with contextlib.suppress(PermissionError):
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, min(wanted, most))
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)


class Connection:
    """A client's connection, and ours to the target."""

    def __init__(self, forwarder: Forwarder, client: socket.socket, target: socket.socket) -> None:
        self.forwarder = forwarder
        self.closed = False
        self._ends = (client, target)
        for end in self._ends:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.up = Lane(self, forwarder.up, client, target)
        self.down = Lane(self, forwarder.down, target, client)

    def open(self) -> None:
        """From now on what the ends send is on its way."""
        for end in self._ends:
            self.forwarder.connections[end.fileno()] = self
            self.forwarder.epoll.register(end, _EDGES)

    def ready(self, descriptor: int, events: int, now: float) -> None:
        if events & select.EPOLLERR:
            self.close(reset=True)
            return
        source, drain = (self.up, self.down) if descriptor == self._ends[0].fileno() else (self.down, self.up)
        if events & (select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP):
            source.wait_for_wire(now)
        if events & select.EPOLLOUT:
            drain.writable = True

    def finish(self) -> None:
        """Close when both directions have come to their end."""
        if self.up.ended and self.down.ended and not self.up.queue and not self.down.queue:
            self.close(reset=False)

    def close(self, *, reset: bool) -> None:
        """``reset``: what is on its way is lost, and both ends are told so (RST)."""
        if self.closed:
            return
        self.closed = True
        for end in self._ends:
            self.forwarder.connections.pop(end.fileno(), None)
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            end.close()
        for lane in (self.up, self.down):
            self.forwarder.moving.discard(lane)
            os.close(lane.inlet)
            os.close(lane.outlet)


class Forwarder:
    """The listener, all connections, and the loop."""

    def __init__(self, host: str, target: tuple[str, int], rate: float, rtt: float) -> None:
        self.up, self.down = Wire(rate, rtt / 2), Wire(rate, rtt / 2)
        self.connections: dict[int, Connection] = {}
        self.moving: set[Lane] = set()
        """Lanes with something on its way."""
        self.epoll = select.epoll()
        self._target = target
        self._rate = rate
        self._rtt = rtt
        self._handshakes: deque[tuple[float, Connection]] = deque()
        self._accepted = 0
        self._listener = socket.create_server((host, 0), backlog=1024)
        self._listener.setblocking(False)
        self._limit_buffers(self._listener)  # sockets that it accepts inherit them
        self.epoll.register(self._listener, select.EPOLLIN)
        self.epoll.register(sys.stdin, select.EPOLLIN)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def run(self) -> None:
        """Until standard input ends."""
        while True:
            events = self._events()
            now = time.monotonic()
            for descriptor, mask in events:
                if connection := self.connections.get(descriptor):
                    connection.ready(descriptor, mask, now)
                elif descriptor == self._listener.fileno():
                    self._accept(now)
                elif descriptor == sys.stdin.fileno() and not self._answer():
                    return
            self._end_handshakes(now)
            for wire in (self.up, self.down):
                wire.take(now)
            for lane in list(self.moving):
                lane.deliver(now)

    def _events(self) -> list[tuple[int, int]]:
        """Of sockets, after the wait for the next moment at which something is due."""
        moments = [lane.next_arrival() for lane in self.moving]
        moments += [self.up.next_turn(), self.down.next_turn()]
        if self._handshakes:
            moments.append(self._handshakes[0][0])
        known = [moment for moment in moments if moment is not None]
        if not known:
            return self.epoll.poll()
        seconds = min(known) - time.monotonic()
        if seconds > 0:
            select.select([self.epoll], [], [], seconds)  # epoll's own timeout has only milliseconds
        return self.epoll.poll(0)

    def _accept(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                self._accepted += 1
                target = socket.socket(socket.AF_INET)
                self._limit_buffers(target)
                connection = Connection(self, client, target)
                if target.connect_ex(self._target) not in (0, errno.EINPROGRESS):
                    connection.close(reset=True)
                else:
                    self._handshakes.append((now + self._rtt, connection))

    def _end_handshakes(self, now: float) -> None:
        while self._handshakes and self._handshakes[0][0] <= now:
            _, connection = self._handshakes.popleft()
            if not connection.closed:
                connection.open()

    def _limit_buffers(self, end: socket.socket) -> None:
        if self._rate:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)

    def _answer(self) -> bool:
        """One line of JSON for each line that comes; false at the end."""
        if not sys.stdin.readline():
            return False
        counts = {"sent": self.up.bytes, "received": self.down.bytes, "connections": self._accepted}
        _say(json.dumps({**counts, "open": len(self.connections) // 2, "cpu": time.process_time()}))
        return True


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    host, target, port, rate, rtt = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for whoever started us, and may still ask
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
    Path("/proc/self/timerslack_ns").write_text("1")  # the kernel's 50 µs are a tenth of a round trip of 1 ms
    forwarder = Forwarder(host, (target, int(port)), float(rate), float(rtt))
    _say(str(forwarder.port))
    forwarder.run()


if __name__ == "__main__":
    main()
