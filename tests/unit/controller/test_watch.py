"""kopf, a real one, on the fake API over HTTP: it reports everything and writes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from imagecache.controller.watch import Watcher
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.connection import Connection
from imagecache.kube.resources import IMAGE_CACHES
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer

from .conftest import eventually, manifest

TOKEN = "t0ken"  # noqa: S105 - it is the one that the fake wants


async def test_every_change_is_taken_and_nothing_is_written(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    seen: list[tuple[str, bool]] = []

    def take(item: Object, gone: bool) -> None:
        seen.append((objects.name(item), gone))

    async with KubeServer(FakeKube(), token=TOKEN) as server:
        await server.kube.create(IMAGE_CACHES, manifest("before"))
        watcher = Watcher(Connection(server.url, token_file=token), take)
        watcher.start()
        try:
            await eventually(lambda: seen == [("before", False)], lambda: seen)
            await server.kube.create(IMAGE_CACHES, manifest("after"))
            await eventually(lambda: ("after", False) in seen, lambda: seen)
            await server.kube.delete(IMAGE_CACHES, "before")
            await eventually(lambda: ("before", True) in seen, lambda: seen)
        finally:
            await watcher.stop()
        left = await server.kube.get(IMAGE_CACHES, "after")

    assert not [line for line in server.requests if not line.startswith("GET ")]
    assert objects.at(left, "metadata", "finalizers") is None
    assert objects.texts(left, "metadata", "annotations") == {}
    assert not [line for line in server.requests if "customresourcedefinitions" in line or "namespaces" in line]


async def test_it_goes_on_after_the_api_server_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagecache.controller.watch._PAUSE", 0.05)
    seen: list[str] = []
    kube = FakeKube()
    await kube.create(IMAGE_CACHES, manifest("a"))
    async with KubeServer(kube) as server:
        watcher = Watcher(Connection("http://127.0.0.1:1"), lambda item, _gone: seen.append(objects.name(item)))
        monkeypatch.setattr("imagecache.controller.watch._BACKOFFS", (0.01,))
        watcher.start()
        try:
            await asyncio.sleep(0)
            watcher._connection = Connection(server.url)
            await eventually(lambda: seen == ["a"], lambda: seen)
        finally:
            await watcher.stop()
