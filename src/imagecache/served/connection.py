"""One connection to the server: TLS, then requests and answers in turn, each within its time.

Everything blocks, in a thread of the connection's own, so that a layer's bytes go from memory straight into TLS. h11
reads heads and watches over the order of things; bodies of answers pass it by. Requests have no bodies here. It must
not know what is asked for, and must not log what a reader sends.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from contextlib import ExitStack
from email.utils import formatdate
from typing import cast

import h11

from imagecache.errors import ImageCacheError
from imagecache.served import routes
from imagecache.served.answers import Answers
from imagecache.served.connection_limit import ConnectionLimit
from imagecache.served.routes import Answer, Request
from imagecache.served.settings import ServerSettings
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_RECEIVED = 16 << 10
_LINGER = 1.0
"""Seconds for a refused reader to see why: closing while bytes of its are unread would take the answer away."""


class Connection:
    """``run`` owns the socket, which is not encrypted yet."""

    def __init__(self, sock: ssl.SSLSocket, room: ConnectionLimit, answers: Answers, settings: ServerSettings) -> None:
        self._sock = sock
        self._room = room
        self._answers = answers
        self._settings = settings
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.head_size)

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # SSLSocket's own takes the TLS away first

    def run(self) -> None:
        """Until the reader goes, is refused or is sent away."""
        try:
            self._converse()
        except OSError as error:  # it went away, sleeps, or never meant to talk TLS: nobody is left to be told
            _log.debug("connection ended", kind=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - the thread's last: its bug is not one of the other connections
            _log.error("connection ended unexpectedly", kind=type(error).__name__)
        finally:
            self._room.leave(self)
            self._sock.close()

    def _converse(self) -> None:
        self._sock.settimeout(self._settings.handshake)
        self._sock.do_handshake()
        while (request := self._request()) is not None and self._room.works(self):
            with ExitStack() as held:
                self._send(request, self._answers.answer(request, held))
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._room.waits(self)
            self._http.start_next_cycle()

    def _request(self) -> Request | None:
        """None: the reader has gone, or asks for what no answer is found to, and was told."""
        try:
            head = self._head()
            if not isinstance(head, h11.Request):
                return None
            if not isinstance(self._http.next_event(), h11.EndOfMessage):
                self._refuse(413, "a request has no body here")
                return None
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, _WORDS.get(error.error_status_hint, "the request is malformed"))
            return None
        return _read(head)

    def _head(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        """Raises TimeoutError while nothing comes, RemoteProtocolError for half a head that is late or too long."""
        late = time.monotonic() + self._settings.head if self._http.trailing_data[0] else None
        while (event := self._http.next_event()) is h11.NEED_DATA:
            left = self._settings.idle if late is None else late - time.monotonic()
            try:
                self._http.receive_data(self._receive(left))
            except TimeoutError:
                if late is None:
                    raise
                raise h11.RemoteProtocolError("late", error_status_hint=408) from None
            late = late or time.monotonic() + self._settings.head
        return event

    def _receive(self, seconds: float) -> bytes:
        if seconds <= 0:
            raise TimeoutError
        self._sock.settimeout(seconds)
        return self._sock.recv(_RECEIVED)

    def _send(self, request: Request, answer: Answer) -> None:
        """An answer whose body ends too early ends the connection, by which the reader sees it."""
        self._sock.settimeout(self._settings.stall)
        self._sock.sendall(self._begin(answer))
        try:
            for piece in answer.body if request.method != "HEAD" else ():
                self._http.send_with_data_passthrough(h11.Data(data=cast("bytes", piece)))  # it counts, no more
                self._sock.sendall(piece)
        except ImageCacheError as error:
            _log.warning("answer cut short", path=request.path, reason=error.reason, problem=str(error))
            self._http.send_failed()
            return
        self._http.send(h11.EndOfMessage())

    def _begin(self, answer: Answer, **more: str) -> bytes:
        fields = {"Date": formatdate(usegmt=True), "Content-Length": str(answer.length), **answer.headers, **more}
        head = self._http.send(h11.Response(status_code=answer.status, headers=list(fields.items())))
        return head or b""

    def _refuse(self, status: int, message: str) -> None:
        answer = routes.problem(status, "InvalidInput", message)
        self._sock.settimeout(self._settings.stall)
        self._sock.sendall(self._begin(answer, Connection="close") + b"".join(answer.body))
        socket.socket.shutdown(self._sock, socket.SHUT_WR)
        until = time.monotonic() + _LINGER
        while (left := until - time.monotonic()) > 0:
            self._sock.settimeout(left)
            if not socket.socket.recv(self._sock, _RECEIVED):  # past TLS: nobody wants to know what it is
                return


_WORDS = {408: "the request takes too long", 431: "the request's head is too large"}


def _read(head: h11.Request) -> Request:
    headers: dict[str, str] = {}
    for name, value in head.headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return Request(head.method.decode("latin-1"), head.target.decode("latin-1"), headers)
