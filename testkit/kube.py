"""A Kubernetes API in memory: versions, conflicts, finalizers, generations, status as a subresource, watches.

Fake of ``imagecache.kube.api.ClusterKube``. Behaves as an API server does wherever the suite or one of our parts relies
on it; schemas and roles are not its business, except that a test can deny or break calls by ``failure``.
"""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from imagecache.api import times
from imagecache.api.yamltext import JSON
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
from imagecache.kube.resources import IMAGE_CACHES, NODE_IMAGE_CACHES, PODS, TOKEN_REVIEWS, Resource
from testkit import strategic_merge
from testkit.clock import FakeClock

Key = tuple[str, str, str]
"""Resource, namespace, name."""
_WITH_STATUS = frozenset({IMAGE_CACHES.qualified, NODE_IMAGE_CACHES.qualified})


def _no_failure(verb: str, resource: Resource, name: str) -> KubernetesError | None:
    del verb, resource, name
    return None


@dataclass(frozen=True)
class _Past:
    """One change of one object, or a bookmark, which has none."""

    version: int
    resource: str
    """Empty: a bookmark, for every watch."""
    before: Object | None
    after: Object | None


@dataclass
class FakeKube:
    clock: Clock = field(default_factory=FakeClock)
    failure: Callable[[str, Resource, str], KubernetesError | None] = _no_failure
    """Asked before every call with verb, resource and name; what it returns is raised."""
    review: Callable[[Object], Object] = lambda request: {**request, "status": {"authenticated": False}}
    """Answers a TokenReview."""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """Verb, resource, name of every call but watches."""
    page_size: int = 500
    _objects: dict[Key, Object] = field(default_factory=dict)
    _history: list[_Past] = field(default_factory=list)
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

    async def page(self, resource: Resource, *, namespace: str = "", fields: str = "", following: str = "") -> bytes:
        """The continue token is the offset, and the version of the first page, which ``compact`` forgets."""
        version, _, offset = following.partition("/")
        if version and int(version) < self._oldest:
            raise WatchExpired("The provided continue parameter is too old")
        listing = await self.list(resource, namespace=namespace, fields=fields)
        return json.dumps(page_of(resource, listing, int(offset or 0), self.page_size)).encode()

    async def watch(
        self, resource: Resource, *, resource_version: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Change]:
        position = int(resource_version)
        self._check("watch", resource, "")

        def meant(item: Object | None) -> bool:
            if item is None or namespace not in {"", objects.namespace(item)}:
                return False
            return objects.selected(item, labels, fields)

        while True:
            async with self._changed:
                await self._changed.wait_for(lambda at=position: self._oldest > at or self._version > at)  # type: ignore[misc]  # bound at once
                if self._oldest > position:
                    raise WatchExpired(f"too old resource version: {position} ({self._version})")
                news = [entry for entry in self._history if entry.version > position]
                position = self._version
            for past in news:
                change = _change(past, resource, meant)
                if change is not None:
                    yield change

    async def lines(
        self, resource: Resource, *, resource_version: str, namespace: str = "", fields: str = ""
    ) -> AsyncIterator[bytes]:
        try:
            async for change in self.watch(
                resource, resource_version=resource_version, namespace=namespace, fields=fields
            ):
                yield line_of(change)
        except WatchExpired as error:
            yield expired_line(error)

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
        if resource == PODS:
            stored.setdefault("status", {"phase": "Pending"})
        stored |= {"apiVersion": resource.api_version, "kind": resource.kind}
        return await self._put(resource, stored)

    async def patch(
        self, resource: Resource, name: str, patch: Object, *, namespace: str = "", subresource: str = ""
    ) -> Object:
        self._called("patch", resource, name)
        before = self._find(resource, namespace, name)
        _check_version(resource, before, patch)
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
        return await self._put(resource, after)

    async def strategic_patch(self, resource: Resource, name: str, patch: Object, *, namespace: str = "") -> None:
        self._called("patch", resource, name)
        before = self._find(resource, namespace, name)
        if resource.qualified in _WITH_STATUS:
            raise ObjectRefused("the body of the request was in an unknown format")
        if objects.uid(patch) not in {"", objects.uid(before)}:
            raise ObjectNotFound(f'{resource.kind} "{name}" is invalid: metadata.uid: field is immutable')
        _check_version(resource, before, patch)
        after = strategic_merge.merged(before, patch)
        if not objects.same(before, after):
            await self._put(resource, after)

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
            await self._put(resource, item)

    async def compact(self) -> None:
        """Forget the past: watches from an earlier version end with WatchExpired."""
        async with self._changed:
            self._version += 1
            self._oldest = self._version
            self._history.clear()
            self._changed.notify_all()

    async def bookmark(self) -> None:
        """Tell every watch how far it has come, as an API server does after a quiet minute."""
        async with self._changed:
            self._version += 1
            self._history.append(_Past(self._version, "", None, None))
            self._changed.notify_all()

    def _find(self, resource: Resource, namespace: str, name: str) -> Object:
        item = self._objects.get((resource.qualified, namespace, name))
        if item is None:
            raise ObjectNotFound(f'{resource.qualified} "{name}" not found')
        return item

    async def _put(self, resource: Resource, item: Object) -> Object:
        async with self._changed:
            self._record(resource, item, item)
        return copy.deepcopy(item)

    async def _drop(self, resource: Resource, item: Object) -> Object:
        async with self._changed:
            self._record(resource, item, None)
        return copy.deepcopy(item)

    def _record(self, resource: Resource, item: Object, after: Object | None) -> None:
        self._version += 1
        objects.metadata(item)["resourceVersion"] = str(self._version)
        key = (resource.qualified, objects.namespace(item), objects.name(item))
        before = self._objects.pop(key, None)
        if after is not None:
            self._objects[key] = after
        self._history.append(_Past(self._version, resource.qualified, before, copy.deepcopy(after)))
        self._changed.notify_all()

    def _called(self, verb: str, resource: Resource, name: str) -> None:
        self.calls.append((verb, resource.qualified, name))
        self._check(verb, resource, name)

    def _check(self, verb: str, resource: Resource, name: str) -> None:
        error = self.failure(verb, resource, name)
        if error is not None:
            raise error


def page_of(resource: Resource, listing: Listing, start: int, limit: int) -> Object:
    """The objects of a list from ``start`` on, which an API server sends without their kind."""
    metadata: Object = {"resourceVersion": listing.resource_version}
    if start + limit < len(listing.items):
        metadata["continue"] = f"{listing.resource_version}/{start + limit}"
    bare: list[JSON] = [{k: v for k, v in item.items() if k not in {"kind", "apiVersion"}} for item in listing.items]
    kind: Object = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
    return {**kind, "metadata": metadata, "items": bare[start : start + limit]}


def line_of(change: Change) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": change.kind.value, "object": change.object}).encode() + b"\n"


def expired_line(error: WatchExpired) -> bytes:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": str(error)}
    return json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"


def _change(past: _Past, resource: Resource, meant: Callable[[Object | None], bool]) -> Change | None:
    """What a watch is told. An object whose fields no longer match is deleted for it, as it was before (cacher)."""
    if not past.resource:
        bare: Object = {"kind": resource.kind, "apiVersion": resource.api_version}
        spec: Object = {"spec": {"containers": None}} if resource == PODS else {}
        return Change(ChangeKind.BOOKMARK, {**bare, "metadata": {"resourceVersion": str(past.version)}, **spec})
    if past.resource != resource.qualified:
        return None
    if past.after is not None and meant(past.after):
        return Change(ChangeKind.MODIFIED if meant(past.before) else ChangeKind.ADDED, copy.deepcopy(past.after))
    if past.before is None or not meant(past.before):
        return None
    gone = copy.deepcopy(past.before)
    objects.metadata(gone)["resourceVersion"] = str(past.version)
    return Change(ChangeKind.DELETED, gone)


def _check_version(resource: Resource, before: Object, patch: Object) -> None:
    """A patch that names a version is for that version alone."""
    if objects.resource_version(patch) not in {"", objects.resource_version(before)}:
        words = f'Operation cannot be fulfilled on {resource.qualified} "{objects.name(before)}": please apply again'
        raise ObjectConflict(words)


def _as_sent(item: Object) -> Object:
    """As JSON has it: a tuple is a list."""
    sent: Object = json.loads(json.dumps(item))
    return sent
