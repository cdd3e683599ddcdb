"""What a controller and its fork server say to each other: JSON, one datagram each (SOCK_SEQPACKET).

A file descriptor goes with two of them (SCM_RIGHTS): with ``Start`` the socket that becomes stdin and stdout of the new
process, with ``Started`` its pidfd, by which it is waited for and killed whatever becomes of the server. It must not do
I/O.
"""

from __future__ import annotations

import msgspec

MAX_MESSAGE = 4096


class Start(msgspec.Struct, tag=True, frozen=True):
    program: str
    """A name in the server's table."""


class Started(msgspec.Struct, tag=True, frozen=True):
    """The answer to a ``Start``, in their order."""

    pid: int


class Refused(msgspec.Struct, tag=True, frozen=True):
    """The other answer: the machine has no process more."""

    errno: int


class Ended(msgspec.Struct, tag=True, frozen=True):
    """Sent once for each that was started, after its ``Started``."""

    pid: int
    status: int
    """The exit status, or the negative number of a signal."""


FromServer = Started | Refused | Ended


def encode(message: Start | FromServer) -> bytes:
    return msgspec.json.encode(message)


def decode_start(data: bytes) -> Start:
    return msgspec.json.decode(data, type=Start)


def decode_from_server(data: bytes) -> FromServer:
    return msgspec.json.decode(data, type=Started | Refused | Ended)
