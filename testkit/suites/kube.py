"""What every ``imagecache.kube.api.Kube`` does: the fake, our client over HTTP, our client on a real API server.

Only kinds that a bare cluster has: ConfigMap-like behaviour is tried on Secrets and Leases. Each test has a namespace
and names of its own.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing

import pytest

from imagecache.errors import ObjectConflict, ObjectExists, ObjectNotFound, ObjectRefused
from imagecache.kube import objects
from imagecache.kube.api import Change, ChangeKind, Kube, Object
from imagecache.kube.informer import Informer
from imagecache.kube.resources import LEASES, SECRETS

NAMESPACE = "default"
_LABEL = "imagecache.dev/suite"
_SECONDS = 20


class KubeSuite:
    @pytest.fixture
    def kube(self) -> Kube:
        raise NotImplementedError

    @pytest.fixture
    def run(self) -> str:
        """Names this test's objects."""
        return f"suite-{uuid.uuid4().hex[:12]}"

    def secret(self, run: str, name: str = "a", **data: str) -> Object:
        values: Object = dict(data)
        return {"metadata": {"name": f"{run}-{name}", "labels": {_LABEL: run}}, "stringData": values}

    async def remove(self, kube: Kube, run: str) -> None:
        for item in (await kube.list(SECRETS, namespace=NAMESPACE, labels=f"{_LABEL}={run}")).items:
            await kube.delete(SECRETS, objects.name(item), namespace=NAMESPACE)

    async def test_what_was_created_is_there(self, kube: Kube, run: str) -> None:
        made = await kube.create(SECRETS, self.secret(run, key="word"), namespace=NAMESPACE)
        found = await kube.get(SECRETS, f"{run}-a", namespace=NAMESPACE)

        assert found == made
        assert (found["apiVersion"], found["kind"]) == ("v1", "Secret")
        assert objects.namespace(found) == NAMESPACE
        assert objects.uid(found)
        assert objects.resource_version(found)
        await self.remove(kube, run)

    async def test_a_name_is_taken_once(self, kube: Kube, run: str) -> None:
        await kube.create(SECRETS, self.secret(run), namespace=NAMESPACE)

        with pytest.raises(ObjectExists):
            await kube.create(SECRETS, self.secret(run), namespace=NAMESPACE)
        await self.remove(kube, run)

    async def test_what_is_not_there_is_not_found(self, kube: Kube, run: str) -> None:
        with pytest.raises(ObjectNotFound):
            await kube.get(SECRETS, run, namespace=NAMESPACE)
        with pytest.raises(ObjectNotFound):
            await kube.patch(SECRETS, run, {"metadata": {"labels": {"a": "b"}}}, namespace=NAMESPACE)
        with pytest.raises(ObjectNotFound):
            await kube.delete(SECRETS, run, namespace=NAMESPACE)

    async def test_a_namespaced_object_needs_a_namespace(self, kube: Kube, run: str) -> None:
        with pytest.raises((ObjectRefused, ObjectNotFound)):
            await kube.create(SECRETS, self.secret(run))

    async def test_a_list_has_what_the_selectors_say(self, kube: Kube, run: str) -> None:
        for name in ("a", "b"):
            await kube.create(SECRETS, self.secret(run, name), namespace=NAMESPACE)

        both = await kube.list(SECRETS, labels=f"{_LABEL}={run}")
        one = await kube.list(SECRETS, namespace=NAMESPACE, fields=f"metadata.name={run}-b")
        assert [objects.name(item) for item in both.items] == [f"{run}-a", f"{run}-b"]
        assert {item["kind"] for item in both.items} == {"Secret"}
        assert both.resource_version
        assert [objects.name(item) for item in one.items] == [f"{run}-b"]
        await self.remove(kube, run)

    async def test_a_patch_merges(self, kube: Kube, run: str) -> None:
        before = await kube.create(SECRETS, self.secret(run), namespace=NAMESPACE)
        await kube.patch(SECRETS, f"{run}-a", {"metadata": {"labels": {"x": "1", "y": "2"}}}, namespace=NAMESPACE)
        after = await kube.patch(SECRETS, f"{run}-a", {"metadata": {"labels": {"x": None}}}, namespace=NAMESPACE)

        assert objects.texts(after, "metadata", "labels") == {_LABEL: run, "y": "2"}
        assert objects.uid(after) == objects.uid(before)
        assert objects.resource_version(after) != objects.resource_version(before)
        await self.remove(kube, run)

    async def test_a_patch_of_an_old_version_conflicts(self, kube: Kube, run: str) -> None:
        lease: Object = {"metadata": {"name": run}, "spec": {"holderIdentity": "one"}}
        old = await kube.create(LEASES, lease, namespace=NAMESPACE)
        await kube.patch(LEASES, run, {"spec": {"holderIdentity": "two"}}, namespace=NAMESPACE)
        late: Object = {"metadata": {"resourceVersion": objects.resource_version(old)}}

        with pytest.raises(ObjectConflict):
            await kube.patch(LEASES, run, late | {"spec": {"holderIdentity": "three"}}, namespace=NAMESPACE)
        found = await kube.get(LEASES, run, namespace=NAMESPACE)
        assert objects.text(found, "spec", "holderIdentity") == "two"
        await kube.delete(LEASES, run, namespace=NAMESPACE)

    async def test_delete_is_for_the_object_that_was_meant(self, kube: Kube, run: str) -> None:
        made = await kube.create(SECRETS, self.secret(run), namespace=NAMESPACE)

        with pytest.raises(ObjectConflict):
            await kube.delete(SECRETS, f"{run}-a", namespace=NAMESPACE, uid=str(uuid.uuid4()))
        await kube.delete(SECRETS, f"{run}-a", namespace=NAMESPACE, uid=objects.uid(made))
        with pytest.raises(ObjectNotFound):
            await kube.get(SECRETS, f"{run}-a", namespace=NAMESPACE)

    async def test_a_finalizer_keeps_the_object_until_it_goes(self, kube: Kube, run: str) -> None:
        name = f"{run}-a"
        item = self.secret(run)
        item["metadata"] = {"name": name, "finalizers": ["imagecache.dev/suite"]}
        await kube.create(SECRETS, item, namespace=NAMESPACE)
        await kube.delete(SECRETS, name, namespace=NAMESPACE)

        kept = await kube.get(SECRETS, name, namespace=NAMESPACE)
        assert objects.text(kept, "metadata", "deletionTimestamp")
        await kube.patch(SECRETS, name, {"metadata": {"finalizers": None}}, namespace=NAMESPACE)
        with pytest.raises(ObjectNotFound):
            await kube.get(SECRETS, name, namespace=NAMESPACE)

    async def test_a_watch_tells_what_happens_after_the_list(self, kube: Kube, run: str) -> None:
        await kube.create(SECRETS, self.secret(run, "before"), namespace=NAMESPACE)
        listing = await kube.list(SECRETS, namespace=NAMESPACE, labels=f"{_LABEL}={run}")
        await kube.create(SECRETS, self.secret(run), namespace=NAMESPACE)
        await kube.patch(SECRETS, f"{run}-a", {"metadata": {"labels": {"x": "1"}}}, namespace=NAMESPACE)
        await kube.delete(SECRETS, f"{run}-a", namespace=NAMESPACE)

        seen: list[Change] = []
        changes = kube.watch(
            SECRETS, namespace=NAMESPACE, labels=f"{_LABEL}={run}", resource_version=listing.resource_version
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

    async def test_a_follower_has_the_whole_picture(self, kube: Kube, run: str) -> None:
        await kube.create(SECRETS, self.secret(run, "before"), namespace=NAMESPACE)
        follower = Informer(kube, SECRETS, namespace=NAMESPACE, labels=f"{_LABEL}={run}")
        seen: list[tuple[str, str]] = []
        async with asyncio.timeout(_SECONDS), aclosing(follower.changes()) as changes:
            async for change in changes:
                seen.append((change.kind.value, objects.name(change.object).removeprefix(f"{run}-")))
                if len(seen) == 1:
                    await kube.create(SECRETS, self.secret(run, "after"), namespace=NAMESPACE)
                elif len(seen) == 2:
                    await kube.delete(SECRETS, f"{run}-before", namespace=NAMESPACE)
                else:
                    break
        assert follower.synced.is_set()
        assert seen == [("ADDED", "before"), ("ADDED", "after"), ("DELETED", "before")]
        await self.remove(kube, run)
