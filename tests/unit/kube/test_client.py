"""The client against an API that misbehaves, tokens that change, and token reviews."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
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
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.connection import Connection
from imagecache.kube.resources import IMAGE_CACHES, LEASES, NODES, SECRETS, Resource
from imagecache.kube.reviewer import KubeTokenReviewer
from imagecache.served.authenticator import Caller
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer


class Answers:
    """A server that says what a test wants."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b"{}")
        self.headers: list[str] = []
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def _serve(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers.get("Authorization", ""))
        return web.Response(status=self.answer[0], body=self.answer[1])


@pytest_asyncio.fixture
async def answers() -> AsyncIterator[Answers]:
    answers = Answers()
    await answers.runner.setup()
    await web.TCPSite(answers.runner, "127.0.0.1", 0).start()
    yield answers
    await answers.runner.cleanup()


def connection(answers: Answers, token_file: Path | None = None) -> Connection:
    host, port = answers.runner.addresses[0]
    return Connection(f"http://{host}:{port}", token_file=token_file)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"Unauthorized", KubernetesDenied),
        (403, b'{"message": "secrets is forbidden"}', KubernetesDenied),
        (404, b'{"reason": "NotFound"}', ObjectNotFound),
        (409, b'{"reason": "AlreadyExists"}', ObjectExists),
        (409, b'{"reason": "Conflict"}', ObjectConflict),
        (410, b"", WatchExpired),
        (422, b'{"message": "spec.images: Required value"}', ObjectRefused),
        (422, b'{"details": {"causes": [{"field": "spec.containers"}]}}', ObjectRefused),
        (422, b'{"details": {"causes": [{"reason": "FieldValueInvalid", "field": "metadata.uid"}]}}', ObjectNotFound),
        (429, b"", KubernetesUnavailable),
        (503, b"<html>", KubernetesUnavailable),
        (200, b"[]", KubernetesUnavailable),
        (200, b"<html>", KubernetesUnavailable),
    ],
)
async def test_answers_become_our_errors(
    answers: Answers, status: int, body: bytes, kind: type[KubernetesError]
) -> None:
    answers.answer = (status, body)
    async with KubeClient(connection(answers)) as client:
        with pytest.raises(kind):
            await client.get(NODES, "a")
        changes = client.watch(NODES, resource_version="1")
        lines = client.lines(NODES, resource_version="1")
        if status == 200:  # a line that has no end is a stream that broke
            assert [change async for change in changes] == []
            assert [line async for line in lines] == []
        else:
            with pytest.raises(kind):
                await client.page(NODES)
            with pytest.raises(kind):
                await client.strategic_patch(NODES, "a", {})
            with pytest.raises(kind):
                await anext(changes)
            with pytest.raises(kind):
                await anext(lines)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"type": "ERROR", "object": {"code": 410, "message": "too old"}}', WatchExpired),
        (b'{"type": "ERROR", "object": {}}', KubernetesUnavailable),
        (b'{"type": "ADDED"}', KubernetesError),
        (b'{"type": "SHOUTED", "object": {}}', KubernetesError),
        (b"nonsense", KubernetesUnavailable),
    ],
)
async def test_a_watch_that_tells_nonsense_ends(answers: Answers, line: bytes, kind: type[KubernetesError]) -> None:
    answers.answer = (200, line + b"\n")
    async with KubeClient(connection(answers)) as client:
        with pytest.raises(kind):
            async for _ in client.watch(NODES, resource_version="1"):
                pass


async def test_a_line_of_a_watch_may_be_long(answers: Answers) -> None:
    answers.answer = (200, b'{"type": "ADDED", "object": {"x": "' + b"y" * (1 << 20) + b'"}}\n\n')
    async with KubeClient(connection(answers)) as client:
        found = [change async for change in client.watch(NODES, resource_version="1")]

    assert len(objects.text(found[0].object, "x")) == 1 << 20


async def test_nobody_there_is_unavailable() -> None:
    async with KubeClient(Connection("http://127.0.0.1:1")) as client:
        with pytest.raises(KubernetesUnavailable, match="does not answer"):
            await client.list(NODES)
        with pytest.raises(KubernetesUnavailable):
            async for _ in client.watch(NODES, resource_version="1"):
                pass


async def test_a_token_file_is_read_again(answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecache.kube.client._TOKEN_SECONDS", -1.0)
    token = tmp_path / "token"
    async with KubeClient(connection(answers, token)) as client:
        with pytest.raises(KubernetesDenied, match="cannot be read"):
            await client.get(NODES, "a")
        for text in ("one", "two"):
            token.write_text(f"{text}\n")
            await client.get(NODES, "a")
        token.unlink()
        await client.get(NODES, "a")

    assert answers.headers == ["Bearer one", "Bearer two", "Bearer two"]


async def test_a_long_list_comes_in_pages() -> None:
    async with KubeServer(FakeKube()) as server, KubeClient(Connection(server.url)) as client:
        for number in range(1001):
            await server.kube.create(NODES, {"metadata": {"name": f"n{number}"}})
        found = await client.list(NODES)

        assert len({objects.name(item) for item in found.items}) == 1001
        assert len(server.requests) == 3


def test_outside_its_context_it_is_a_mistake() -> None:
    with pytest.raises(RuntimeError):
        _ = KubeClient(Connection("http://x"))._http


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        (NODES, "/api/v1/nodes/a"),
        (IMAGE_CACHES, "/apis/eci.alibabacloud.com/v1/imagecaches/a"),
        (SECRETS, "/api/v1/namespaces/ns/secrets/a"),
        (LEASES, "/apis/coordination.k8s.io/v1/namespaces/ns/leases/a"),
    ],
)
def test_paths_are_kubernetes_own(resource: Resource, path: str) -> None:
    assert resource.path(namespace="ns", name="a") == path
    assert resource.path(namespace="ns", name="a", subresource="status") == f"{path}/status"


USER: Object = {"username": "agent", "extra": {"authentication.kubernetes.io/node-name": ["worker"]}}


@pytest.mark.parametrize(
    ("status", "caller"),
    [
        ({"authenticated": True, "audiences": ["imagecache"], "user": USER}, Caller("agent", "worker")),
        ({"authenticated": True, "audiences": ["imagecache"], "user": {"username": "agent"}}, Caller("agent")),
        ({"authenticated": True, "audiences": ["other"], "user": USER}, None),
        ({"authenticated": True, "user": USER}, None),
        ({"authenticated": False}, None),
        ({}, None),
    ],
)
async def test_a_token_is_believed_for_our_audience_only(status: Object, caller: Caller | None) -> None:
    asked: list[Object] = []

    def review(request: Object) -> Object:
        asked.append(request)
        return {"status": status}

    reviewer = KubeTokenReviewer(FakeKube(review=review))
    assert await reviewer.review("word") == caller
    assert asked == [{"spec": {"token": "word", "audiences": ["imagecache"]}}]
