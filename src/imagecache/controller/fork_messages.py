"""What a controller and its fork server say to each other: JSON, one datagram each (SOCK_SEQPACKET).

``Start`` carries a file descriptor (SCM_RIGHTS), which becomes stdin and stdout of the new process. It must not do I/O.
"""

from __future__ import annotations

import msgspec

MAX_MESSAGE = 4096


class Start(msgspec.Struct, tag=True, frozen=True):
    program: str
    """A name in the server's table."""


class Kill(msgspec.Struct, tag=True, frozen=True):
    pid: int


class Started(msgspec.Struct, tag=True, frozen=True):
    """The answer to a ``Start``, in their order."""

    pid: int


class Ended(msgspec.Struct, tag=True, frozen=True):
    """Sent once for each that was started, after its ``Started``."""

    pid: int
    status: int
    """The exit status, or the negative number of a signal."""


ToServer = Start | Kill
FromServer = Started | Ended


def encode(message: ToServer | FromServer) -> bytes:
    return msgspec.json.encode(message)


def decode_to_server(data: bytes) -> ToServer:
    return msgspec.json.decode(data, type=Start | Kill)


def decode_from_server(data: bytes) -> FromServer:
    return msgspec.json.decode(data, type=Started | Ended)
