"""The Kube port over files, for a host without Kubernetes: ``kube.api.Kube``.

ImageCaches are files of the store, with what an API server adds to objects: uid, generation, resourceVersion,
finalizers, status as a subresource. Secrets are read from a directory. Events are dropped, because an ImageCache
carries its own in ``status.events``. No other kind exists here. Beyond the port's errors, every method raises
StoreError, StoreDenied and NoSpace of the file system. It must not know what an ImageCache means.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import msgspec

from imagecache import foreign_json
from imagecache.api import times
from imagecache.api.parse import is_name
from imagecache.clock import Clock
from imagecache.errors import (
    ObjectConflict,
    ObjectExists,
    ObjectNotFound,
    ObjectRefused,
    StoreCorrupt,
    WatchExpired,
)
from imagecache.kube import objects
from imagecache.kube.api import Change, ChangeKind, Listing, Object
from imagecache.kube.object_files import ObjectFiles, Stamp
from imagecache.kube.resources import EVENTS, IMAGE_CACHES, SECRETS, Resource
from imagecache.kube.secret_directory import SecretDirectory
from imagecache.telemetry.log import get_logger

_POLL = 2.0
"""Seconds between two looks at the files of a watch: what an agent begins by itself can wait, and a host that is idle
stays idle. Commands read the files themselves."""
_LISTINGS = 8
"""Listings that a watch can go on from. Each informer needs its last one."""
_log = get_logger(__name__)

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")
_Seen = dict[Path, tuple[Stamp, Object]]


class FileKube:
    """For one event loop; any number of processes may work on the same files."""

    def __init__(self, files: ObjectFiles, secrets: SecretDirectory, clock: Clock) -> None:
        self._files = files
        self._secrets = secrets
        self._clock = clock
        self._numbers = itertools.count(1)
        self._listings: dict[str, _Seen] = {}
        self._malformed: dict[Path, Stamp] = {}
        """Files that a warning was about."""

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        if resource == SECRETS:
            return await asyncio.to_thread(self._secrets.get, name, namespace)
        _check(resource)
        return await asyncio.to_thread(self._get, name)

    async def list(self, resource: Resource, *, namespace: str = "", labels: str = "", fields: str = "") -> Listing:
        """A file that cannot be read is left out, with a warning: one must not keep the others from being listed."""
        del namespace
        _check(resource)
        seen = await asyncio.to_thread(self._look, {})
        version = str(next(self._numbers))
        self._listings[version] = seen
        for old in list(self._listings)[:-_LISTINGS]:
            del self._listings[old]
        items = sorted((item for _stamp, item in seen.values()), key=objects.name)
        return Listing(tuple(item for item in items if objects.selected(item, labels, fields)), version)

    async def watch(
        self, resource: Resource, *, resource_version: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Change]:
        """Looks at the files again and again, so two changes of one object soon after each other are one.

        Goes on from a listing of this object alone: files have no history.
        """
        del namespace
        _check(resource)
        seen = self._listings.get(resource_version)
        if seen is None:
            raise WatchExpired(f"no listing {resource_version} was made here")
        while True:
            before, seen = seen, await asyncio.to_thread(self._look, seen)
            for change in _changes(before, seen):
                if objects.selected(change.object, labels, fields):
                    yield change
            await asyncio.sleep(_POLL)

    async def create(self, resource: Resource, item: Object, *, namespace: str = "") -> Object:
        del namespace
        if resource == EVENTS:
            return item
        _check(resource)
        return await _to_the_end(self._create, item)

    async def patch(
        self, resource: Resource, name: str, patch: Object, *, namespace: str = "", subresource: str = ""
    ) -> Object:
        """A change of the spec or of an annotation begins a new generation: on a host both decide what is built."""
        del namespace
        _check(resource)
        return await _to_the_end(self._patch, name, patch, subresource)

    async def delete(self, resource: Resource, name: str, *, namespace: str = "", uid: str = "") -> None:
        del namespace
        _check(resource)
        await _to_the_end(self._delete, name, uid)

    def _get(self, name: str) -> Object:
        item = self._files.read(name)
        if item is None:
            raise ObjectNotFound(f'{IMAGE_CACHES.qualified} "{name}" not found')
        return item

    def _create(self, item: Object) -> Object:
        item = _as_sent(item)
        name = objects.name(item)
        if not is_name(name):
            raise ObjectRefused(f"{name!r} cannot be the name of an object")
        given = {key: value for key, value in item.items() if key != "status"}
        stored = given | {"apiVersion": IMAGE_CACHES.api_version, "kind": IMAGE_CACHES.kind}
        metadata: Object = {"uid": str(uuid.uuid4()), "creationTimestamp": times.render(self._clock.now())}
        stored["metadata"] = objects.metadata(item) | metadata | {"generation": 1}
        with self._files.writing():
            if self._files.read(name) is not None:
                raise ObjectExists(f'{IMAGE_CACHES.qualified} "{name}" already exists')
            return self._write(stored, before=0)

    def _patch(self, name: str, patch: Object, subresource: str) -> Object:
        patch = _as_sent(patch)
        with self._files.writing():
            before = self._get(name)
            version = objects.resource_version(patch)
            if version and version != objects.resource_version(before):
                raise ObjectConflict(f'{IMAGE_CACHES.qualified} "{name}" has changed; read it again')
            after = objects.merge(before, patch)
            if subresource == "status":
                after = {key: value for key, value in before.items() if key != "status"} | {"status": after["status"]}
            else:
                after = {key: value for key, value in after.items() if key != "status"}
                after |= {"status": before["status"]} if "status" in before else {}
            if objects.same(before, after):
                return before
            if _asked(before) != _asked(after):
                generation = objects.at(before, "metadata", "generation")
                objects.metadata(after)["generation"] = generation + 1 if isinstance(generation, int) else 1
            if objects.at(after, "metadata", "deletionTimestamp") and not objects.at(after, "metadata", "finalizers"):
                self._files.remove(name)
                return after
            return self._write(after, before=_version(before))

    def _delete(self, name: str, uid: str) -> None:
        with self._files.writing():
            item = self._get(name)
            if uid and uid != objects.uid(item):
                raise ObjectConflict(f'{IMAGE_CACHES.qualified} "{name}" is another object than the one meant')
            if not objects.at(item, "metadata", "finalizers"):
                self._files.remove(name)
            elif not objects.at(item, "metadata", "deletionTimestamp"):
                objects.metadata(item)["deletionTimestamp"] = times.render(self._clock.now())
                self._write(item, before=_version(item))

    def _write(self, item: Object, *, before: int) -> Object:
        """The time as a version: no other object of the name ever has the same one, also not a later one."""
        objects.metadata(item)["resourceVersion"] = str(max(time.time_ns(), before + 1))
        self._files.write(objects.name(item), item)
        return item

    def _look(self, seen: _Seen) -> _Seen:
        """Every object now; files that are as in ``seen`` are not read again.

        An object whose file has become unreadable stays as it was seen: it was not deleted.
        """
        found: _Seen = {}
        for path, stamp in self._files.stamps().items():
            known = seen.get(path)
            try:
                item = known[1] if known and known[0] == stamp else self._files.read_file(path)
            except StoreCorrupt as error:
                if self._malformed.get(path) != stamp:  # once for each version: a watch looks several times a second
                    self._malformed[path] = stamp
                    _log.warning("an object is left out", file=str(path), problem=str(error), hint=error.hint)
                if known is not None:
                    found[path] = known
                continue
            if item is not None:
                found[path] = (stamp, item)
        return found


async def _to_the_end(work: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
    """In a thread, which cannot be cancelled: a cancelled caller goes on when the write has ended.

    Otherwise the status that a cancelled command writes last could be overwritten by the one before.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _check(resource: Resource) -> None:
    if resource != IMAGE_CACHES:
        raise ObjectNotFound(f"a host has no {resource.qualified}")


def _as_sent(item: Object) -> Object:
    """As JSON has it: a tuple that a caller gives is a list in a file, and is compared with one.

    A manifest or the name of a file may have brought half a surrogate pair, which no JSON of ours can have.
    """
    sent: Object = msgspec.json.decode(msgspec.json.encode(foreign_json.whole(item)))
    return sent


def _asked(item: Object) -> tuple[object, object]:
    """What decides about the build."""
    return item.get("spec"), objects.texts(item, "metadata", "annotations")


def _version(item: Object) -> int:
    text = objects.resource_version(item)
    return int(text) if text.isdecimal() else 0  # not isdigit: int takes no superscripts


def _changes(before: _Seen, after: _Seen) -> Iterator[Change]:
    for path in before.keys() - after.keys():
        yield Change(ChangeKind.DELETED, before[path][1])
    for path, (stamp, item) in after.items():
        known = before.get(path)
        if known is None:
            yield Change(ChangeKind.ADDED, item)
        elif known[0] != stamp:
            yield from _replaced(known[1], item)


def _replaced(before: Object, after: Object) -> Iterator[Change]:
    """A file that was deleted and created again between two looks is two objects."""
    if objects.uid(before) != objects.uid(after):
        yield Change(ChangeKind.DELETED, before)
        yield Change(ChangeKind.ADDED, after)
    else:
        yield Change(ChangeKind.MODIFIED, after)
