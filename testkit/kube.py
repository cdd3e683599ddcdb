"""A Kubernetes API in memory: versions, conflicts, finalizers, generations, status as a subresource, watches.

Fake of ``imagecache.kube.api.Kube``. Behaves as an API server does wherever the suite or one of our parts relies on
it; schemas and roles are not its business, except that a test can deny or break calls by ``failure``.
"""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from imagecache.api import times
from imagecache.clock import Clock
from imagecache.errors import (
    KubernetesError,
    ObjectConflict,
    ObjectExists,
    ObjectNotFound,
    ObjectRefused,
    WatchExpired,
)
from imagecache.kube import objects
from imagecache.kube.api import Change, ChangeKind, Listing, Object
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, TOKEN_REVIEWS, Resource
from testkit.clock import FakeClock

Key = tuple[str, str, str]
"""Resource, namespace, name."""
_WITH_STATUS = frozenset({IMAGE_CACHES.qualified, NODE_IMAGE_CACHES.qualified})


def _no_failure(verb: str, resource: Resource, name: str) -> KubernetesError | None:
    del verb, resource, name
    return None


@dataclass
class FakeKube:
    clock: Clock = field(default_factory=FakeClock)
    failure: Callable[[str, Resource, str], KubernetesError | None] = _no_failure
    """Asked before every call with verb, resource and name; what it returns is raised."""
    review: Callable[[Object], Object] = lambda request: {**request, "status": {"authenticated": False}}
    """Answers a TokenReview."""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """Verb, resource, name of every call but watches."""
    _objects: dict[Key, Object] = field(default_factory=dict)
    _history: list[tuple[int, str, Change]] = field(default_factory=list)
    _version: int = 100
    _oldest: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        self._called("get", resource, name)
        return copy.deepcopy(self._find(resource, namespace, name))

    async def list(self, resource: Resource, *, namespace: str = "", labels: str = "", fields: str = "") -> Listing:
        self._called("list", resource, "")
        found = [
            copy.deepcopy(item)
            for (kind, space, _), item in sorted(self._objects.items())
            if kind == resource.qualified and namespace in {"", space} and objects.selected(item, labels, fields)
        ]
        return Listing(tuple(found), str(self._version))

    async def watch(
        self, resource: Resource, *, resource_version: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Change]:
        position = int(resource_version)
        self._check("watch", resource, "")
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda at=position: self._oldest > at or self._version > at)  # type: ignore[misc]  # bound at once
                if self._oldest > position:
                    raise WatchExpired(f"too old resource version: {position} ({self._version})")
                news = [entry for entry in self._history if entry[0] > position]
                position = self._version
            for _, kind, change in news:
                item = change.object
                meant = kind == resource.qualified and namespace in {"", objects.namespace(item)}
                if meant and objects.selected(item, labels, fields):
                    yield copy.deepcopy(change)

    async def create(self, resource: Resource, item: Object, *, namespace: str = "") -> Object:
        self._called("create", resource, objects.name(item))
        if resource == TOKEN_REVIEWS:
            return self.review(item)
        stored = _as_sent(item)
        metadata = objects.metadata(stored)
        name = objects.name(stored) or f"{objects.text(stored, 'metadata', 'generateName')}{uuid.uuid4().hex[:5]}"
        if resource.namespaced and not namespace:
            raise ObjectRefused(f"{resource.qualified}: an empty namespace may not be set during creation")
        if (resource.qualified, namespace, name) in self._objects:
            raise ObjectExists(f'{resource.qualified} "{name}" already exists')
        metadata |= {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": times.render(self.clock.now())}
        metadata |= {"generation": 1} | ({"namespace": namespace} if resource.namespaced else {})
        if resource.qualified in _WITH_STATUS:
            stored.pop("status", None)
        stored |= {"apiVersion": resource.api_version, "kind": resource.kind}
        return await self._put(resource, stored, ChangeKind.ADDED)

    async def patch(
        self, resource: Resource, name: str, patch: Object, *, namespace: str = "", subresource: str = ""
    ) -> Object:
        self._called("patch", resource, name)
        before = self._find(resource, namespace, name)
        version = objects.resource_version(patch)
        if version and version != objects.resource_version(before):
            raise ObjectConflict(f'Operation cannot be fulfilled on {resource.qualified} "{name}": please apply again')
        after = objects.merge(before, _as_sent(patch))
        if subresource == "status":
            after = copy.deepcopy(before) | {"status": after.get("status")}
        elif resource.qualified in _WITH_STATUS:
            after.pop("status", None)
            after |= {"status": before["status"]} if "status" in before else {}
        if objects.same(before, after):
            return copy.deepcopy(before)
        if before.get("spec") != after.get("spec"):
            generation = objects.at(before, "metadata", "generation")
            objects.metadata(after)["generation"] = int(generation) + 1 if isinstance(generation, int) else 1
        if objects.at(after, "metadata", "deletionTimestamp") and not objects.at(after, "metadata", "finalizers"):
            return await self._drop(resource, after)
        return await self._put(resource, after, ChangeKind.MODIFIED)

    async def delete(self, resource: Resource, name: str, *, namespace: str = "", uid: str = "") -> None:
        self._called("delete", resource, name)
        item = copy.deepcopy(self._find(resource, namespace, name))
        if uid and uid != objects.uid(item):
            raise ObjectConflict(
                f"Precondition failed: UID in precondition: {uid}, in object meta: {objects.uid(item)}"
            )
        if not objects.at(item, "metadata", "finalizers"):
            await self._drop(resource, item)
        elif not objects.at(item, "metadata", "deletionTimestamp"):
            objects.metadata(item)["deletionTimestamp"] = times.render(self.clock.now())
            await self._put(resource, item, ChangeKind.MODIFIED)

    async def compact(self) -> None:
        """Forget the past: watches from an earlier version end with WatchExpired."""
        async with self._changed:
            self._version += 1
            self._oldest = self._version
            self._history.clear()
            self._changed.notify_all()

    def _find(self, resource: Resource, namespace: str, name: str) -> Object:
        item = self._objects.get((resource.qualified, namespace, name))
        if item is None:
            raise ObjectNotFound(f'{resource.qualified} "{name}" not found')
        return item

    async def _put(self, resource: Resource, item: Object, kind: ChangeKind) -> Object:
        async with self._changed:
            self._version += 1
            objects.metadata(item)["resourceVersion"] = str(self._version)
            key = (resource.qualified, objects.namespace(item), objects.name(item))
            if kind is ChangeKind.DELETED:
                self._objects.pop(key, None)
            else:
                self._objects[key] = item
            self._history.append((self._version, resource.qualified, Change(kind, copy.deepcopy(item))))
            self._changed.notify_all()
        return copy.deepcopy(item)

    async def _drop(self, resource: Resource, item: Object) -> Object:
        return await self._put(resource, item, ChangeKind.DELETED)

    def _called(self, verb: str, resource: Resource, name: str) -> None:
        self.calls.append((verb, resource.qualified, name))
        self._check(verb, resource, name)

    def _check(self, verb: str, resource: Resource, name: str) -> None:
        error = self.failure(verb, resource, name)
        if error is not None:
            raise error


def _as_sent(item: Object) -> Object:
    """As JSON has it: a tuple is a list."""
    sent: Object = json.loads(json.dumps(item))
    return sent
