"""An HTTP proxy: ``ForwardProxy`` tunnels (CONNECT), forwards, and records the requests.

Every host leads to one server, so that tests can use names that do not exist. It must not interpret the content.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import Self

_END = b"\r\n\r\n"


class ForwardProxy:
    """An asynchronous context manager; ``address`` is ``host:port`` while it runs."""

    def __init__(self, port: int, *, credential: str = "") -> None:
        """Everything goes to ``port`` on loopback; ``credential`` is the required ``user:password``."""
        self._port = port
        self._credential = f"Basic {base64.b64encode(credential.encode()).decode()}" if credential else ""
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked: list[str] = []
        """Methods and targets, as ``CONNECT registry.example:443``; nothing that was refused."""
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(_END)
        first, *lines = head.removesuffix(_END).decode().split("\r\n")
        method, target, version = first.split(" ")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
        if headers.get("proxy-authorization", "") != self._credential:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        self.asked.append(f"{method} {target}")
        there, here = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            if method == "CONNECT":
                writer.write(f"HTTP/1.1 200 Connection established{_END.decode()}".encode())
            else:  # one request for each connection is enough
                path = "/" + target.partition("://")[2].partition("/")[2]
                kept = [line for line in lines if not line.lower().startswith(("proxy-", "connection:"))]
                here.write("\r\n".join([f"{method} {path} {version}", *kept, "Connection: close"]).encode() + _END)
            await asyncio.gather(_pipe(reader, here), _pipe(there, writer))
        finally:
            here.close()


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while chunk := await source.read(65536):
        sink.write(chunk)
        await sink.drain()
    sink.close()
