"""The fake API over HTTP, so that the client is tried without a cluster: verbs, pages, watches.

It must not have behaviour of its own: everything but the wire is ``FakeKube``'s.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from aiohttp import web

from imagecache.errors import (
    KubernetesDenied,
    KubernetesError,
    KubernetesUnavailable,
    ObjectConflict,
    ObjectExists,
    ObjectNotFound,
    ObjectRefused,
    WatchExpired,
)
from imagecache.kube import resources
from imagecache.kube.api import Object
from imagecache.kube.resources import Resource
from testkit.kube import FakeKube, expired_line, line_of, page_of

_STATUS = {
    KubernetesDenied: (403, "Forbidden"),
    KubernetesUnavailable: (503, "ServiceUnavailable"),
    ObjectConflict: (409, "Conflict"),
    ObjectExists: (409, "AlreadyExists"),
    ObjectNotFound: (404, "NotFound"),
    ObjectRefused: (422, "Invalid"),
    WatchExpired: (410, "Expired"),
}
_KNOWN = {item.qualified: item for item in vars(resources).values() if isinstance(item, Resource)}
Target = tuple[Resource, str, str, str]
"""Resource, namespace, name and subresource."""


class KubeServer:
    """Serves a ``FakeKube`` on a port of the loopback, as an async context."""

    def __init__(self, kube: FakeKube, *, token: str = "") -> None:
        self.kube = kube
        self.token = token
        """Wanted from clients; empty: none."""
        self.requests: list[str] = []
        self.url = ""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _failure(401, "Unauthorized", "Unauthorized")
        parts = [part for part in request.path.split("/") if part]
        target = _target(parts)
        if target is None:
            return _failure(404, "NotFound", "the server could not find the requested resource")
        try:
            return await self._object(request, *target)
        except KubernetesError as error:
            code, reason = _STATUS[type(error)]
            return _failure(code, reason, str(error))

    async def _object(
        self, request: web.Request, resource: Resource, namespace: str, name: str, subresource: str
    ) -> web.StreamResponse:
        kube = self.kube
        if request.method == "GET" and name:
            return web.json_response(await kube.get(resource, name, namespace=namespace))
        if request.method == "GET":
            watching = request.query.get("watch") in {"1", "true"}
            return await (self._watch if watching else self._list)(request, resource, namespace)
        body = await request.json()
        if request.method == "POST":
            return web.json_response(await kube.create(resource, body, namespace=namespace), status=201)
        if request.method == "PATCH":
            return await self._patch(request.content_type, body, (resource, namespace, name, subresource))
        await kube.delete(resource, name, namespace=namespace, uid=body.get("preconditions", {}).get("uid", ""))
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _patch(self, kind: str, body: Object, target: Target) -> web.Response:
        resource, namespace, name, subresource = target
        if kind == "application/strategic-merge-patch+json":
            await self.kube.strategic_patch(resource, name, body, namespace=namespace)
            return web.json_response({})
        if kind != "application/merge-patch+json":
            return _failure(415, "UnsupportedMediaType", kind)
        patched = await self.kube.patch(resource, name, body, namespace=namespace, subresource=subresource)
        return web.json_response(patched)

    async def _list(self, request: web.Request, resource: Resource, namespace: str) -> web.StreamResponse:
        query = request.query
        listing = await self.kube.list(
            resource,
            namespace=namespace,
            labels=query.get("labelSelector", ""),
            fields=query.get("fieldSelector", ""),
        )
        _, _, start = query.get("continue", "").partition("/")
        limit = int(query.get("limit") or 0) or len(listing.items) + 1
        return web.json_response(page_of(resource, listing, int(start or 0), limit))

    async def _watch(self, request: web.Request, resource: Resource, namespace: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        query = request.query
        try:
            async for change in self.kube.watch(
                resource,
                resource_version=query.get("resourceVersion", "0"),
                namespace=namespace,
                labels=query.get("labelSelector", ""),
                fields=query.get("fieldSelector", ""),
            ):
                await response.write(line_of(change))
        except WatchExpired as error:
            await response.write(expired_line(error))
        except ConnectionResetError:
            pass  # the client went away
        return response


def _failure(code: int, reason: str, message: str) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return web.json_response({**status, "message": message}, status=code)


def _target(parts: list[str]) -> Target | None:
    """Of a path."""
    group, rest = (parts[1], parts[3:]) if parts[:1] == ["apis"] else ("", parts[2:])
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource = _KNOWN.get(f"{rest[0]}.{group}" if group else rest[0]) if rest else None
    if resource is None:
        return None
    name, subresource = (*rest[1:], "", "")[:2]
    return resource, namespace, name, subresource
