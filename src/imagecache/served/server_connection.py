"""One connection to the server: TLS, then requests and responses in turn, each within its time.

Everything blocks, in a thread of the connection's own, so that a layer's bytes go from memory straight into TLS. h11
parses heads and enforces the order of messages; bodies of responses pass it by. Requests have no bodies here. It must
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

from imagecache.connection_limit import ConnectionLimit, OpenConnection
from imagecache.errors import ImageCacheError
from imagecache.served import http_messages
from imagecache.served.http_messages import Request, Response
from imagecache.served.request_handler import RequestHandler
from imagecache.served.server_settings import ServerSettings
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_RECEIVED = 16 << 10
"""Bytes of one recv(2): a TLS record has no more."""
_LINGER = 1.0
"""Seconds for a refused reader to see why. A close(2) while bytes of its are unread sends a RST, and the kernel on its
side then drops the response that it has not read yet."""
_REFUSALS = {408: "the request takes too long", 431: "the request's head is too large"}


class ServerConnection:
    """``run`` owns the socket, which is not encrypted yet. ``entry`` is in the limit when ``run`` is called."""

    def __init__(
        self, sock: ssl.SSLSocket, limit: ConnectionLimit, handler: RequestHandler, settings: ServerSettings
    ) -> None:
        self.entry = OpenConnection(self._abort)
        self._sock = sock
        self._limit = limit
        self._handler = handler
        self._settings = settings
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.head_size)

    def _abort(self) -> None:
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown: it drops the TLS object first, while another thread is using it.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def run(self) -> None:
        """Until the reader disconnects, is refused, or is aborted."""
        try:
            self._converse()
        except OSError as error:  # it disconnected, went silent, or does not speak TLS: nobody is left to tell
            _log.debug("connection ended", kind=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - end of the thread: a bug here must not concern other connections
            _log.error("connection ended unexpectedly", kind=type(error).__name__)
        finally:
            # First out of the limit, then close: an abort after the close could hit a descriptor that was reused.
            self._limit.remove(self.entry)
            self._sock.close()

    def _converse(self) -> None:
        self._sock.settimeout(self._settings.handshake_timeout)
        self._sock.do_handshake()
        while (request := self._request()) is not None and self._limit.mark_busy(self.entry):
            with ExitStack() as held:
                self._send(request, self._handler.respond(request, held))
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._limit.mark_idle(self.entry)
            self._http.start_next_cycle()

    def _request(self) -> Request | None:
        """None: the reader has disconnected, or sent something that is no request, and was told so."""
        try:
            head = self._head()
            if not isinstance(head, h11.Request):
                return None
            if not isinstance(self._http.next_event(), h11.EndOfMessage):
                self._refuse(413, "a request has no body here")
                return None
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            self._refuse(status, _REFUSALS.get(status, "the request is malformed"))
            return None
        headers: dict[str, str] = {}
        for name, value in head.headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text  # RFC 9110 5.3
        return Request(head.method.decode("latin-1"), head.target.decode("latin-1"), headers)

    def _head(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        """Raises TimeoutError when nothing comes, RemoteProtocolError for a head that is too slow or too long.

        The time of a head is counted from its first byte and not from its last, or a reader that sends one byte a
        second would keep its thread for hours.
        """
        due = time.monotonic() + self._settings.head_timeout if self._http.trailing_data[0] else None
        while (event := self._http.next_event()) is h11.NEED_DATA:
            left = self._settings.idle_timeout if due is None else due - time.monotonic()
            try:
                self._http.receive_data(self._receive(left))
            except TimeoutError:
                if due is None:
                    raise
                raise h11.RemoteProtocolError("late", error_status_hint=408) from None
            due = due or time.monotonic() + self._settings.head_timeout
        return event

    def _receive(self, seconds: float) -> bytes:
        if seconds <= 0:
            raise TimeoutError  # settimeout(0) would mean "do not block"
        self._sock.settimeout(seconds)
        return self._sock.recv(_RECEIVED)

    def _send(self, request: Request, response: Response) -> None:
        """A body that fails half-way ends the connection; Content-Length tells the reader that bytes are missing."""
        self._sock.settimeout(self._settings.send_timeout)
        self._sock.sendall(self._head_of(response))
        try:
            for piece in response.body if request.method != "HEAD" else ():
                # h11 only counts the bytes: what it returns is the piece itself.
                self._http.send_with_data_passthrough(h11.Data(data=cast("bytes", piece)))
                self._sock.sendall(piece)
        except ImageCacheError as error:
            _log.warning("response cut short", path=request.path, reason=error.reason, problem=str(error))
            self._http.send_failed()
            return
        self._http.send(h11.EndOfMessage())

    def _head_of(self, response: Response, **more: str) -> bytes:
        fields = {"Date": formatdate(usegmt=True), "Content-Length": str(response.length), **response.headers, **more}
        head = self._http.send(h11.Response(status_code=response.status, headers=list(fields.items())))
        return head or b""

    def _refuse(self, status: int, message: str) -> None:
        response = http_messages.problem(status, "InvalidInput", message)
        self._sock.settimeout(self._settings.send_timeout)
        self._sock.sendall(self._head_of(response, Connection="close") + b"".join(response.body))
        socket.socket.shutdown(self._sock, socket.SHUT_WR)
        until = time.monotonic() + _LINGER
        while (left := until - time.monotonic()) > 0:
            self._sock.settimeout(left)
            if not socket.socket.recv(self._sock, _RECEIVED):  # below TLS: what comes is thrown away
                return
