"""What every ``imagecache.kube.api.Kube`` does: the fake, our client over HTTP or to a real API server, files.

``ObjectSuite`` is tried on any kind, ``KubeSuite`` on one that a bare cluster has: Secrets. ``PodSuite`` is what an API
server does beyond that: ``ClusterKube``. Each test has names of its own, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import ClassVar

import msgspec
import pytest

from imagecache.api.yamltext import JSON
from imagecache.errors import ObjectConflict, ObjectExists, ObjectNotFound, ObjectRefused
from imagecache.kube import node_affinity, objects
from imagecache.kube.api import Change, ChangeKind, ClusterKube, Kube, Object
from imagecache.kube.informer import Informer
from imagecache.kube.resources import PODS, SECRETS, Resource
from imagecache.kube.stream import Gone, ListBegun, ListEnded, Stream

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


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str = ""
    annotations: dict[str, str] = {}


class _Pod(msgspec.Struct):
    metadata: _Meta

    @property
    def resource_version(self) -> str:
        return self.metadata.resource_version


class PodSuite:
    """An API server's pods. No scheduler knows these, so nothing but the suite changes them."""

    namespace: ClassVar[str] = "default"

    @pytest.fixture
    def kube(self) -> ClusterKube:
        raise NotImplementedError

    @pytest.fixture
    def run(self) -> str:
        return f"suite-{uuid.uuid4().hex[:12]}"

    async def create(self, kube: ClusterKube, run: str, **spec: JSON) -> Object:
        gates: list[JSON] = [{"name": "imagecache.dev/suite"}, {"name": "example.com/other"}]
        containers: list[JSON] = [{"name": "a", "image": "registry.invalid/a:1"}]
        body: Object = {"schedulingGates": gates, "containers": containers, "schedulerName": "none"}
        item: Object = {"metadata": {"name": run, "annotations": {"example.com/a": "1"}}, "spec": {**body, **spec}}
        return await kube.create(PODS, item, namespace=self.namespace)

    async def patched(self, kube: ClusterKube, run: str, patch: Object) -> Object:
        await kube.strategic_patch(PODS, run, patch, namespace=self.namespace)
        return await kube.get(PODS, run, namespace=self.namespace)

    def gates(self, pod: Object) -> list[str]:
        found = objects.at(pod, "spec", "schedulingGates")
        return [objects.text(gate, "name") for gate in found] if isinstance(found, list) else []

    async def test_a_gate_goes_and_the_others_stay(self, kube: ClusterKube, run: str) -> None:
        made = await self.create(kube, run)
        metadata: Object = {"uid": objects.uid(made), "annotations": {"example.com/b": "2"}}
        patch: Object = {"metadata": metadata, "spec": {"schedulingGates": [_without("imagecache.dev/suite")]}}
        once = await self.patched(kube, run, patch)
        twice = await self.patched(kube, run, patch)
        last = await self.patched(kube, run, {"spec": {"schedulingGates": [_without("example.com/other")]}})

        assert self.gates(once) == self.gates(twice) == ["example.com/other"]
        assert objects.resource_version(twice) == objects.resource_version(once), "what is so already is no change"
        assert objects.texts(once, "metadata", "annotations") == {"example.com/a": "1", "example.com/b": "2"}
        assert objects.at(once, "spec", "containers") == objects.at(made, "spec", "containers")
        assert self.gates(last) == []
        await kube.delete(PODS, run, namespace=self.namespace)

    async def test_a_patch_takes_an_annotation_away(self, kube: ClusterKube, run: str) -> None:
        await self.create(kube, run)
        after = await self.patched(kube, run, {"metadata": {"annotations": {"example.com/a": None}}})

        assert objects.texts(after, "metadata", "annotations") == {}
        await kube.delete(PODS, run, namespace=self.namespace)

    async def test_a_patch_of_another_pod_of_the_name_finds_none(self, kube: ClusterKube, run: str) -> None:
        made = await self.create(kube, run)
        other: Object = {"metadata": {"uid": str(uuid.uuid4()), "annotations": {"example.com/a": "2"}}}

        with pytest.raises(ObjectNotFound):
            await kube.strategic_patch(PODS, run, other, namespace=self.namespace)
        assert await kube.get(PODS, run, namespace=self.namespace) == made
        await kube.delete(PODS, run, namespace=self.namespace)
        with pytest.raises(ObjectNotFound):
            await kube.strategic_patch(PODS, run, other, namespace=self.namespace)

    async def test_a_patch_of_an_old_version_conflicts(self, kube: ClusterKube, run: str) -> None:
        made = await self.create(kube, run)
        now = await self.patched(kube, run, {"metadata": {"annotations": {"example.com/a": "2"}}})
        annotations: Object = {"annotations": {"example.com/a": "3"}}
        gone: Object = {"schedulingGates": [_without("imagecache.dev/suite")]}
        late: Object = {"resourceVersion": objects.resource_version(made), "uid": objects.uid(made), **annotations}

        with pytest.raises(ObjectConflict):
            await kube.strategic_patch(PODS, run, {"metadata": late, "spec": gone}, namespace=self.namespace)
        assert await kube.get(PODS, run, namespace=self.namespace) == now
        late["resourceVersion"] = objects.resource_version(now)
        after = await self.patched(kube, run, {"metadata": late, "spec": gone})
        assert objects.texts(after, "metadata", "annotations")["example.com/a"] == "3"
        assert self.gates(after) == ["example.com/other"]
        await kube.delete(PODS, run, namespace=self.namespace)

    async def test_node_affinity_changes_while_the_pod_is_gated(self, kube: ClusterKube, run: str) -> None:
        zone: Object = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]}
        terms: list[JSON] = [{"matchExpressions": [zone]}]
        required: Object = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        await self.create(kube, run, affinity={"nodeAffinity": required})
        after = await self.patched(
            kube, run, {"spec": {"affinity": {"nodeAffinity": node_affinity.preferring(required, ["node-1"])}}}
        )
        affinity = objects.at(after, "spec", "affinity", "nodeAffinity")
        assert isinstance(affinity, dict)
        assert affinity == {**required, **node_affinity.preferring({}, ["node-1"])}
        narrowed = node_affinity.requiring(affinity, ["node-1", "node-2"])
        last = await self.patched(
            kube,
            run,
            {"spec": {"affinity": {"nodeAffinity": narrowed}, "schedulingGates": [_without("imagecache.dev/suite")]}},
        )

        assert objects.at(last, "spec", "affinity", "nodeAffinity") == {**affinity, **narrowed}
        assert self.gates(last) == ["example.com/other"]
        await kube.delete(PODS, run, namespace=self.namespace)

    async def test_a_stream_reports_what_matches_until_it_goes(self, kube: ClusterKube, run: str) -> None:
        await self.create(kube, run)
        stream = Stream(
            kube,
            PODS,
            msgspec.json.Decoder(_Pod),
            namespace=self.namespace,
            fields=f"metadata.name={run},status.phase=Pending",
        )
        seen: list[str] = []
        async with asyncio.timeout(_SECONDS), aclosing(stream.news()) as news:
            async for each in news:
                if isinstance(each, ListBegun | ListEnded):
                    seen.append(type(each).__name__)
                    continue
                word = f"{type(each).__name__} {each.object.metadata.annotations.get('example.com/a')}"
                if word == seen[-1]:  # an API server marks what it deletes first
                    continue
                seen.append(word)
                if isinstance(each, Gone):
                    break
                if len(seen) == 2:
                    patch: Object = {"metadata": {"annotations": {"example.com/a": "2"}}}
                    await kube.strategic_patch(PODS, run, patch, namespace=self.namespace)
                elif len(seen) == 4:
                    await kube.delete(PODS, run, namespace=self.namespace)

        assert stream.synced.is_set()
        assert seen == ["ListBegun", "Seen 1", "ListEnded", "Seen 2", "Gone 2"]


def _without(gate: str) -> Object:
    return {"name": gate, "$patch": "delete"}
