"""Whether a program is ready, asked of the program: a connection, an answer, or what it tells its service manager.

The file of a socket is no answer: bind(2) makes it, and connections are refused until listen(2). Nor is time, nor a
program's log. All of these return False while nobody answers, and never wait longer than a few seconds.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import struct
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

_SECONDS = 5
_ACCEPTS = 1 << 16
"""``__SO_ACCEPTCON`` of include/linux/net.h: set by listen(2)."""


def accepts(address: Path | tuple[str, int]) -> bool:
    """Whether a connection to a unix socket, or to host and port, is accepted."""
    try:
        with contextlib.ExitStack() as stack:
            if isinstance(address, tuple):
                stack.enter_context(socket.create_connection(address, timeout=1))
                return True
            probe = stack.enter_context(socket.socket(socket.AF_UNIX))
            folder = os.open(address.parent, os.O_PATH)
            stack.callback(os.close, folder)
            probe.connect(f"/proc/self/fd/{folder}/{address.name}")  # a socket's path has at most 107 bytes
            return True
    except OSError:
        return False


def listens(path: Path) -> bool:
    """As ``accepts``, without a connection: for a listener that starts a program for the first one (unix(7))."""
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[-1] == str(path) and int(fields[3], 16) & _ACCEPTS:
            return True
    return False


def answers(url: str, trust: ssl.SSLContext | None = None) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS, context=trust) as answer:  # noqa: S310 - our own http(s) URL
            return bool(answer.status == http.HTTPStatus.OK)
    except (OSError, urllib.error.URLError, http.client.HTTPException):
        return False


def resolves(server: str, name: str) -> bool | None:
    """Whether a DNS server has an IPv4 address for ``name``; None while it does not answer (RFC 1035 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!B2H", 0, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect((server, 53))
            probe.send(query)
            answer = probe.recv(512)
        except OSError:
            return None
    return bool(struct.unpack_from("!H", answer, 6)[0])


class Notifications:
    """``NOTIFY_SOCKET`` of a service that has ``Type=notify`` (sd_notify(3)). A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def ready(self) -> bool:
        """Whether ``READY=1`` has come."""
        with contextlib.suppress(BlockingIOError):
            while message := self._socket.recv(4096):
                if b"READY=1" in message.splitlines():
                    return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)
