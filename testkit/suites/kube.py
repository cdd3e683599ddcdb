"""What every ``imagecache.kube.api.Kube`` does: the fake, our client over HTTP or to a real API server, files.

``ObjectSuite`` is tried on any kind, ``KubeSuite`` on one that a bare cluster has: Secrets. Each test has names of its
own, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import ClassVar

import pytest

from imagecache.errors import ObjectConflict, ObjectExists, ObjectNotFound, ObjectRefused
from imagecache.kube import objects
from imagecache.kube.api import Change, ChangeKind, Kube, Object
from imagecache.kube.informer import Informer
from imagecache.kube.resources import SECRETS, Resource

_LABEL = "imagecache.dev/suite"
_SECONDS = 20


class ObjectSuite:
    resource: ClassVar[Resource]
    """What the suite makes objects of."""
    namespace: ClassVar[str] = ""
    body: ClassVar[Object]
    """An object without its metadata."""

    @pytest.fixture
    def kube(self) -> Kube:
        raise NotImplementedError

    @pytest.fixture
    def run(self) -> str:
        """Names this test's objects."""
        return f"suite-{uuid.uuid4().hex[:12]}"

    def item(self, run: str, name: str = "a") -> Object:
        return {"metadata": {"name": f"{run}-{name}", "labels": {_LABEL: run}}, **self.body}

    async def label(self, kube: Kube, run: str, **labels: str) -> None:
        metadata: Object = {"labels": dict(labels)}
        await kube.patch(self.resource, f"{run}-a", {"metadata": metadata}, namespace=self.namespace)

    async def remove(self, kube: Kube, run: str) -> None:
        for item in (await kube.list(self.resource, namespace=self.namespace, labels=f"{_LABEL}={run}")).items:
            await kube.delete(self.resource, objects.name(item), namespace=self.namespace)

    async def test_what_was_created_is_there(self, kube: Kube, run: str) -> None:
        made = await kube.create(self.resource, self.item(run), namespace=self.namespace)
        found = await kube.get(self.resource, f"{run}-a", namespace=self.namespace)

        assert found == made
        assert (found["apiVersion"], found["kind"]) == (self.resource.api_version, self.resource.kind)
        assert objects.namespace(found) == self.namespace
        assert objects.uid(found)
        assert objects.resource_version(found)
        await self.remove(kube, run)

    async def test_a_name_is_taken_once(self, kube: Kube, run: str) -> None:
        await kube.create(self.resource, self.item(run), namespace=self.namespace)

        with pytest.raises(ObjectExists):
            await kube.create(self.resource, self.item(run), namespace=self.namespace)
        await self.remove(kube, run)

    async def test_what_is_not_there_is_not_found(self, kube: Kube, run: str) -> None:
        with pytest.raises(ObjectNotFound):
            await kube.get(self.resource, run, namespace=self.namespace)
        with pytest.raises(ObjectNotFound):
            await kube.patch(self.resource, run, {"metadata": {"labels": {"a": "b"}}}, namespace=self.namespace)
        with pytest.raises(ObjectNotFound):
            await kube.delete(self.resource, run, namespace=self.namespace)

    async def test_a_patch_merges(self, kube: Kube, run: str) -> None:
        before = await kube.create(self.resource, self.item(run), namespace=self.namespace)
        await kube.patch(
            self.resource, f"{run}-a", {"metadata": {"labels": {"x": "1", "y": "2"}}}, namespace=self.namespace
        )
        after = await kube.patch(
            self.resource, f"{run}-a", {"metadata": {"labels": {"x": None}}}, namespace=self.namespace
        )

        assert objects.texts(after, "metadata", "labels") == {_LABEL: run, "y": "2"}
        assert objects.uid(after) == objects.uid(before)
        assert objects.resource_version(after) != objects.resource_version(before)
        await self.remove(kube, run)

    async def test_a_patch_of_an_old_version_conflicts(self, kube: Kube, run: str) -> None:
        old = await kube.create(self.resource, self.item(run), namespace=self.namespace)
        await self.label(kube, run, x="two")
        late: Object = {"resourceVersion": objects.resource_version(old), "labels": {"x": "three"}}

        with pytest.raises(ObjectConflict):
            await kube.patch(self.resource, f"{run}-a", {"metadata": late}, namespace=self.namespace)
        found = await kube.get(self.resource, f"{run}-a", namespace=self.namespace)
        assert objects.texts(found, "metadata", "labels")["x"] == "two"
        await self.remove(kube, run)

    async def test_delete_is_for_the_object_that_was_meant(self, kube: Kube, run: str) -> None:
        made = await kube.create(self.resource, self.item(run), namespace=self.namespace)

        with pytest.raises(ObjectConflict):
            await kube.delete(self.resource, f"{run}-a", namespace=self.namespace, uid=str(uuid.uuid4()))
        await kube.delete(self.resource, f"{run}-a", namespace=self.namespace, uid=objects.uid(made))
        with pytest.raises(ObjectNotFound):
            await kube.get(self.resource, f"{run}-a", namespace=self.namespace)

    async def test_a_finalizer_keeps_the_object_until_it_goes(self, kube: Kube, run: str) -> None:
        name = f"{run}-a"
        item = self.item(run)
        item["metadata"] = {"name": name, "finalizers": ["imagecache.dev/suite"]}
        await kube.create(self.resource, item, namespace=self.namespace)
        await kube.delete(self.resource, name, namespace=self.namespace)

        kept = await kube.get(self.resource, name, namespace=self.namespace)
        assert objects.text(kept, "metadata", "deletionTimestamp")
        await kube.patch(self.resource, name, {"metadata": {"finalizers": None}}, namespace=self.namespace)
        with pytest.raises(ObjectNotFound):
            await kube.get(self.resource, name, namespace=self.namespace)

    async def test_a_list_has_what_the_selectors_say(self, kube: Kube, run: str) -> None:
        for name in ("a", "b"):
            await kube.create(self.resource, self.item(run, name), namespace=self.namespace)

        both = await kube.list(self.resource, namespace=self.namespace, labels=f"{_LABEL}={run}")
        one = await kube.list(self.resource, namespace=self.namespace, fields=f"metadata.name={run}-b")
        assert [objects.name(item) for item in both.items] == [f"{run}-a", f"{run}-b"]
        assert {item["kind"] for item in both.items} == {self.resource.kind}
        assert both.resource_version
        assert [objects.name(item) for item in one.items] == [f"{run}-b"]
        await self.remove(kube, run)

    async def test_a_watch_tells_what_happens_while_it_runs(self, kube: Kube, run: str) -> None:
        await kube.create(self.resource, self.item(run, "before"), namespace=self.namespace)
        listing = await kube.list(self.resource, namespace=self.namespace, labels=f"{_LABEL}={run}")
        await kube.create(self.resource, self.item(run), namespace=self.namespace)
        then: list[Callable[[], Coroutine[None, None, None]]] = [
            partial(self.label, kube, run, x="1"),
            partial(kube.delete, self.resource, f"{run}-a", namespace=self.namespace),
        ]
        seen: list[Change] = []
        changes = kube.watch(
            self.resource,
            namespace=self.namespace,
            labels=f"{_LABEL}={run}",
            resource_version=listing.resource_version,
        )
        async with asyncio.timeout(_SECONDS):
            async for change in changes:
                if change.kind is ChangeKind.BOOKMARK:
                    continue
                seen.append(change)
                if len(seen) == 3:
                    break
                await then[len(seen) - 1]()
        assert [change.kind for change in seen] == [ChangeKind.ADDED, ChangeKind.MODIFIED, ChangeKind.DELETED]
        assert {objects.name(change.object) for change in seen} == {f"{run}-a"}
        await self.remove(kube, run)

    async def test_an_informer_reports_everything(self, kube: Kube, run: str) -> None:
        await kube.create(self.resource, self.item(run, "before"), namespace=self.namespace)
        informer = Informer(kube, self.resource, namespace=self.namespace, labels=f"{_LABEL}={run}")
        seen: list[tuple[str, str]] = []
        async with asyncio.timeout(_SECONDS), aclosing(informer.changes()) as changes:
            async for change in changes:
                seen.append((change.kind.value, objects.name(change.object).removeprefix(f"{run}-")))
                if len(seen) == 1:
                    await kube.create(self.resource, self.item(run, "after"), namespace=self.namespace)
                elif len(seen) == 2:
                    await kube.delete(self.resource, f"{run}-before", namespace=self.namespace)
                else:
                    break
        assert informer.synced.is_set()
        assert seen == [("ADDED", "before"), ("ADDED", "after"), ("DELETED", "before")]
        await self.remove(kube, run)


class KubeSuite(ObjectSuite):
    """An API server: namespaces, and a history that a watch goes on from."""

    resource = SECRETS
    namespace = "default"
    body: ClassVar[Object] = {"stringData": {"key": "word"}}

    async def test_a_namespaced_object_needs_a_namespace(self, kube: Kube, run: str) -> None:
        with pytest.raises((ObjectRefused, ObjectNotFound)):
            await kube.create(self.resource, self.item(run))

    async def test_a_list_is_of_all_namespaces(self, kube: Kube, run: str) -> None:
        await kube.create(self.resource, self.item(run), namespace=self.namespace)

        found = await kube.list(self.resource, labels=f"{_LABEL}={run}")
        assert [objects.name(item) for item in found.items] == [f"{run}-a"]
        await self.remove(kube, run)

    async def test_a_watch_tells_what_happens_after_the_list(self, kube: Kube, run: str) -> None:
        await kube.create(self.resource, self.item(run, "before"), namespace=self.namespace)
        listing = await kube.list(self.resource, namespace=self.namespace, labels=f"{_LABEL}={run}")
        await kube.create(self.resource, self.item(run), namespace=self.namespace)
        await kube.patch(self.resource, f"{run}-a", {"metadata": {"labels": {"x": "1"}}}, namespace=self.namespace)
        await kube.delete(self.resource, f"{run}-a", namespace=self.namespace)

        seen: list[Change] = []
        changes = kube.watch(
            self.resource, namespace=self.namespace, labels=f"{_LABEL}={run}", resource_version=listing.resource_version
        )
        async with asyncio.timeout(_SECONDS):
            async for change in changes:
                if change.kind is not ChangeKind.BOOKMARK:
                    seen.append(change)
                if len(seen) == 3:
                    break
        assert [change.kind for change in seen] == [ChangeKind.ADDED, ChangeKind.MODIFIED, ChangeKind.DELETED]
        assert {objects.name(change.object) for change in seen} == {f"{run}-a"}
        await self.remove(kube, run)
