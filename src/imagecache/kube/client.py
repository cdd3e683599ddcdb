"""The port over HTTPS with aiohttp: requests, pages, watch streams, and errors of ours for refusals.

It must not retry (callers know what a retry means) and must not keep objects.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from imagecache import __version__
from imagecache.errors import KubernetesDenied, KubernetesError, KubernetesUnavailable
from imagecache.kube.api import Change, ChangeKind, Listing, Object
from imagecache.kube.connection import Connection
from imagecache.kube.objects import text
from imagecache.kube.refusals import error_of
from imagecache.kube.resources import Resource

_PAGE = 500
"""Objects of a page, as kubectl and client-go ask for."""
_REQUEST_SECONDS = 30.0
_WATCH_SECONDS = 240
"""After which the API server ends a watch; the next one resumes at the last version. client-go: 300 to 600."""
_LINE = 8 << 20
"""Bytes of one line of a watch; etcd takes objects of 1.5 MiB."""
_TOKEN_SECONDS = 60.0
"""How long a token file's content is used before it is read again; client-go has the same minute."""
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"

_object = msgspec.json.Decoder(dict)


class KubeClient:
    """``kube.api.ClusterKube`` for one API server, as an async context."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session: aiohttp.ClientSession | None = None
        self._token = connection.token
        self._token_read = 0.0

    async def __aenter__(self) -> Self:
        https = self._connection.server.startswith("https://")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._connection.ssl_context() if https else True, limit=0
            ),  # each watch holds a connection
            timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS),
            headers={"User-Agent": f"imagecache/{__version__}"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        return await self._call("GET", resource.path(namespace=namespace, name=name))

    async def list(self, resource: Resource, *, namespace: str = "", labels: str = "", fields: str = "") -> Listing:
        found: list[Object] = []
        query = _query(labels, fields) | {"limit": str(_PAGE)}
        while True:
            page = await self._call("GET", resource.path(namespace=namespace), query)
            found.extend(_items(page, resource))
            following = text(page, "metadata", "continue")
            if not following:
                return Listing(tuple(found), text(page, "metadata", "resourceVersion"))
            query["continue"] = following

    async def page(self, resource: Resource, *, namespace: str = "", fields: str = "", following: str = "") -> bytes:
        query = _query("", fields) | {"limit": str(_PAGE)} | ({"continue": following} if following else {})
        return await self._ask("GET", resource.path(namespace=namespace), query)

    async def watch(
        self, resource: Resource, *, resource_version: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Change]:
        path = resource.path(namespace=namespace)
        async for line in self._watched(path, _query(labels, fields) | {"resourceVersion": resource_version}):
            yield _change(line, f"watch {path}")

    def lines(
        self, resource: Resource, *, resource_version: str, namespace: str = "", fields: str = ""
    ) -> AsyncIterator[bytes]:
        path = resource.path(namespace=namespace)
        return self._watched(path, _query("", fields) | {"resourceVersion": resource_version})

    async def _watched(self, path: str, query: dict[str, str]) -> AsyncIterator[bytes]:
        query = query | {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(_WATCH_SECONDS)}
        # no total: a watch is long by design; the silence is bounded by the end that the server was asked for
        timeout = aiohttp.ClientTimeout(sock_connect=_REQUEST_SECONDS, sock_read=_WATCH_SECONDS + _REQUEST_SECONDS)
        try:
            async with self._http.get(
                self._url(path), params=query, headers=self._headers(), timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise error_of(response.status, await response.read(), f"watch {path}")
                async for line in _lines(response.content):
                    yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(self._connection.server, error) from error

    async def create(self, resource: Resource, item: Object, *, namespace: str = "") -> Object:
        body = {"apiVersion": resource.api_version, "kind": resource.kind} | item
        return await self._call("POST", resource.path(namespace=namespace), body=body)

    async def patch(
        self, resource: Resource, name: str, patch: Object, *, namespace: str = "", subresource: str = ""
    ) -> Object:
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return await self._call("PATCH", path, body=patch, content_type=_MERGE)

    async def strategic_patch(self, resource: Resource, name: str, patch: Object, *, namespace: str = "") -> None:
        path = resource.path(namespace=namespace, name=name)
        await self._ask("PATCH", path, body=patch, content_type=_STRATEGIC)

    async def delete(self, resource: Resource, name: str, *, namespace: str = "", uid: str = "") -> None:
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if uid:
            options["preconditions"] = {"uid": uid}
        await self._call("DELETE", resource.path(namespace=namespace, name=name), body=options)

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is used outside its context")
        return self._session

    def _url(self, path: str) -> str:
        return self._connection.server + path

    def _headers(self, content_type: str = "") -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if content_type:
            headers["Content-Type"] = content_type
        token = self._current_token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _current_token(self) -> str:
        file, now = self._connection.token_file, time.monotonic()
        if file is not None and (not self._token or now - self._token_read > _TOKEN_SECONDS):
            try:
                self._token, self._token_read = file.read_text(encoding="ascii").strip(), now
            except (OSError, UnicodeDecodeError) as error:
                if not self._token:  # else the old one serves: the API server says when it does not
                    raise KubernetesDenied(f"{file} cannot be read", hint="check the service account") from error
        return self._token

    async def _call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        *,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        return _decode(await self._ask(method, path, query, body=body, content_type=content_type), f"{method} {path}")

    async def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        *,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        data = json.dumps(body).encode() if body is not None else None
        try:
            async with self._http.request(
                method, self._url(path), params=query, data=data, headers=self._headers(content_type if data else "")
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(self._connection.server, error) from error
        if response.status >= 400:
            raise error_of(response.status, answer, f"{method} {path}")
        return answer


def _query(labels: str, fields: str) -> dict[str, str]:
    pairs = (("labelSelector", labels), ("fieldSelector", fields))
    return {key: value for key, value in pairs if value}


def _items(page: Object, resource: Resource) -> list[Object]:
    """The objects of a page; the API server leaves their kind out."""
    items = page.get("items")
    kind: Object = {"apiVersion": resource.api_version, "kind": resource.kind}
    return [{**kind, **item} for item in items if isinstance(item, dict)] if isinstance(items, list) else []


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length up to the bound; aiohttp's own reader stops at 64 KiB."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(rest) > _LINE:
            raise KubernetesError(f"the API server sent a line of more than {_LINE} bytes")
        await asyncio.sleep(0)  # a long backlog must not keep everything else waiting


def _change(line: bytes, what: str) -> Change:
    event = _decode(line, what)
    item = event.get("object")
    if not isinstance(item, dict):
        raise KubernetesError(f"{what}: the API server sent a change without an object")
    if event.get("type") == "ERROR":
        code = item.get("code")
        raise error_of(code if isinstance(code, int) else 500, msgspec.json.encode(item), what)
    try:
        return Change(ChangeKind(event.get("type")), item)
    except ValueError as error:
        raise KubernetesError(f"{what}: the API server sent a change of an unknown type") from error


def _decode(data: bytes, what: str) -> Object:
    try:
        item: Object = _object.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise KubernetesUnavailable(f"{what}: the answer is not a JSON object") from error
    return item


def _unavailable(server: str, error: BaseException) -> KubernetesUnavailable:
    problem = str(error) or type(error).__name__
    return KubernetesUnavailable(
        f"the Kubernetes API at {server} does not answer: {problem}", hint="is it running, and reachable from here?"
    )
