"""Calls to containerd's socket: grpclib with containerd's metadata, deadlines and our errors.

One connection carries concurrent calls (HTTP/2). It must not know what a call means: ``services`` does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpclib.client import Channel, StreamStreamMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from imagecache.errors import (
    AlreadyExists,
    ContainerdMisconfigured,
    ContainerdUnavailable,
    ImageCacheError,
    NotFound,
    PrivilegeMissing,
)

Reply = TypeVar("Reply", bound=Message)
_EXISTS = {Status.ALREADY_EXISTS: AlreadyExists, Status.NOT_FOUND: NotFound}
# a server that stops answers running calls with these
_GONE = frozenset({Status.UNAVAILABLE, Status.CANCELLED, Status.DEADLINE_EXCEEDED})


class Connection:
    """Opened by the first call, and opened again by the next call after it was lost."""

    def __init__(self, address: Path, *, deadline: float) -> None:
        self._address = address
        self._deadline = deadline
        """Seconds that one call may take."""
        self._channel: Channel | None = None

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def call(
        self,
        method: str,
        request: Message,
        reply: type[Reply],
        metadata: dict[str, str] | None = None,
        *,
        seconds: float | None = None,
    ) -> Reply:
        """One request, one reply. ``method`` is ``package.Service/Name``; ``seconds`` replaces the deadline.

        Raises NotFound, AlreadyExists, ContainerdUnavailable, ContainerdMisconfigured, PrivilegeMissing.
        """
        with self._converted(method):
            stub = UnaryUnaryMethod(self._opened(), f"/{method}", type(request), reply)
            answer: Reply = await stub(request, timeout=seconds or self._deadline, metadata=metadata)
            return answer

    async def command(
        self, method: str, request: Message, metadata: dict[str, str] | None = None, *, seconds: float | None = None
    ) -> None:
        """A call whose reply is empty; ``seconds`` as for ``call``."""
        await self.call(method, request, Empty, metadata, seconds=seconds)

    async def exchange(
        self, method: str, request: Message, reply: type[Reply], metadata: dict[str, str] | None = None
    ) -> Reply:
        """One request and one reply through a method that streams both ways."""
        with self._converted(method):
            stub = StreamStreamMethod(self._opened(), f"/{method}", type(request), reply)
            async with stub.open(timeout=self._deadline, metadata=metadata) as stream:
                await stream.send_message(request, end=True)
                answer: Reply | None = await stream.recv_message()
                if answer is None:  # an error without a message is in the trailers; this raises it
                    await stream.recv_trailing_metadata()
                    raise ContainerdUnavailable(f"containerd ended {method} without an answer")
                return answer

    async def upload(
        self,
        method: str,
        requests: AsyncIterator[Message],
        last: Message,
        reply: type[Reply],
        metadata: dict[str, str] | None = None,
        *,
        seconds: float,
    ) -> Reply:
        """Many requests, each answered before the next is sent; returns the answer to ``last``.

        ``seconds`` is the deadline of one of them. What ``requests`` raises ends the call before ``last``.
        """
        with self._converted(method):
            stub = StreamStreamMethod(self._opened(), f"/{method}", type(last), reply)
            async with stub.open(metadata=metadata) as stream:

                async def answered(request: Message, *, end: bool = False) -> Reply:
                    async with asyncio.timeout(seconds):
                        await stream.send_message(request, end=end)
                        answer: Reply | None = await stream.recv_message()
                    if answer is None:  # grpclib replaces this by the error in the trailers, if they have one
                        raise StreamTerminatedError(f"{method} ended without an answer")
                    return answer

                async for request in requests:
                    await answered(request)
                return await answered(last, end=True)

    async def stream(
        self,
        method: str,
        request: Message,
        reply: type[Reply],
        metadata: dict[str, str] | None = None,
        *,
        endless: bool = False,
    ) -> AsyncIterator[Reply]:
        """One request, many replies, all of them within the deadline; ``endless``: without one."""
        with self._converted(method):
            stub = UnaryStreamMethod(self._opened(), f"/{method}", type(request), reply)
            async with stub.open(timeout=None if endless else self._deadline, metadata=metadata) as stream:
                await stream.send_message(request, end=True)
                async for message in stream:
                    yield message

    def _opened(self) -> Channel:
        if self._channel is None:
            self._channel = Channel(path=str(self._address))
        return self._channel

    @contextlib.contextmanager
    def _converted(self, method: str) -> Iterator[None]:
        try:
            yield
        except GRPCError as error:
            raise self._refused(method, error) from error
        except (TimeoutError, StreamTerminatedError, OSError) as error:
            raise self._unreachable(error) from error

    def _refused(self, method: str, error: GRPCError) -> ImageCacheError:
        message = f"containerd at {self._address} refused {method}: {error.message or error.status.name}"
        if error.status in _EXISTS:
            return _EXISTS[error.status](message)
        if error.status in _GONE:
            return ContainerdUnavailable(message, hint="look at containerd's log, then try again")
        if error.status is Status.PERMISSION_DENIED:
            return PrivilegeMissing(message, hint="run as root")
        return ContainerdMisconfigured(message, hint="run: imagecache doctor")

    def _unreachable(self, error: Exception) -> ImageCacheError:
        if isinstance(error, PermissionError):
            return PrivilegeMissing(f"no permission for containerd's socket {self._address}", hint="run as root")
        if isinstance(error, FileNotFoundError):
            return ContainerdUnavailable(
                f"containerd has no socket at {self._address}",
                hint="start containerd, or name its socket with --address",
            )
        if isinstance(error, ConnectionRefusedError):
            return ContainerdUnavailable(
                f"containerd does not listen on {self._address}",
                hint="start containerd: systemctl start containerd",
            )
        what = "did not answer in time" if isinstance(error, TimeoutError) else "broke the connection"
        return ContainerdUnavailable(f"containerd at {self._address} {what}", hint="look at containerd's log")
