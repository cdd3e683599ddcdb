"""All objects of a resource, each for a moment: a list in pages and a watch, decoded by the caller, nothing kept.

For kinds of which a cluster has a hundred thousand, and of which little is needed: an ``Informer`` keeps all, whole.
Since nothing is kept, nobody here can tell what vanished while no watch ran: a list that is begun anew says so, and
whoever remembers an object that it does not report forgets it then. An object that cannot be decoded is logged and left
out: it must not hide the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import msgspec

from imagecache.backoff import Backoff, Retries
from imagecache.errors import KubernetesUnavailable
from imagecache.kube.api import ChangeKind, ClusterKube
from imagecache.kube.refusals import error_of
from imagecache.kube.resources import Resource
from imagecache.kube.resuming import BACKOFF, resuming
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)
_PROBLEM = 200
"""Characters of a decoder's message in the log."""


class Versioned(Protocol):
    """What every decoded object has."""

    @property
    def resource_version(self) -> str: ...


T = TypeVar("T", bound=Versioned)
_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class ListBegun:
    """What follows, until ``ListEnded``, is all that there is. It may begin again before it has ended."""


@dataclass(frozen=True, slots=True)
class ListEnded:
    pass


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    object: T


@dataclass(frozen=True, slots=True)
class Gone(Generic[T]):
    """It was deleted, or its fields no longer match."""

    object: T
    """As it was before that."""


News = ListBegun | ListEnded | Seen[T] | Gone[T]


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """One page of a list."""

    objects: tuple[T, ...]
    resource_version: str
    """Of the whole list."""


class _Meta(
    msgspec.Struct, rename={"resource_version": "resourceVersion", "following": "continue"}, frozen=True, gc=False
):
    resource_version: str = ""
    following: str = ""


class _Page(msgspec.Struct, frozen=True, gc=False):
    metadata: _Meta
    items: list[msgspec.Raw] | None = None


class _Line(msgspec.Struct, frozen=True, gc=False):
    type: str
    object: msgspec.Raw


class _Bare(msgspec.Struct, frozen=True, gc=False):
    """Of an object its version alone. That of a BOOKMARK has nothing else: its ``spec.containers`` is null."""

    metadata: _Meta = _Meta()


class _Status(msgspec.Struct, frozen=True, gc=False):
    code: int = 500


_pages = msgspec.json.Decoder(_Page)
_lines = msgspec.json.Decoder(_Line)
_bare = msgspec.json.Decoder(_Bare)
_status = msgspec.json.Decoder(_Status)
_kinds = {kind.value: kind for kind in ChangeKind}


async def pages(
    kube: ClusterKube, resource: Resource, decoder: msgspec.json.Decoder[T], *, namespace: str = "", fields: str = ""
) -> AsyncIterator[Listed[T]]:
    """All objects, page by page. Raises KubernetesError; WatchExpired when it took too long."""
    following = ""
    while True:
        data = await kube.page(resource, namespace=namespace, fields=fields, following=following)
        page = _read(_pages, data, f"list {resource.qualified}")
        found = (_decoded(raw, decoder, resource) for raw in page.items or ())
        yield Listed(tuple(each for each in found if each is not None), page.metadata.resource_version)
        following = page.metadata.following
        if not following:
            return


@dataclass
class Stream(Generic[T]):
    """Iterate over ``news()``. ``synced`` is set when the whole first list has been reported."""

    kube: ClusterKube
    resource: Resource
    decoder: msgspec.json.Decoder[T]
    namespace: str = ""
    fields: str = ""
    """A field selector: ``status.phase=Pending``."""
    backoff: Backoff = BACKOFF
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    _version: str = ""

    def news(self) -> AsyncGenerator[News[T], None]:
        """Without end. Errors of the API server are logged once and retried, never raised."""
        return resuming(self._once, self._forget, Retries(self.backoff, _log, resource=self.resource.qualified))

    def _forget(self) -> None:
        self._version = ""

    async def _once(self) -> AsyncIterator[News[T]]:
        """One list, unless the watch can resume at the last version, and one watch."""
        if not self._version:
            async for each in self._list():
                yield each
            self.synced.set()
        lines = self.kube.lines(
            self.resource, resource_version=self._version, namespace=self.namespace, fields=self.fields
        )
        async for line in lines:
            change = self._change(line)
            if change is not None:
                yield change

    async def _list(self) -> AsyncIterator[News[T]]:
        begun, version = False, ""
        async for page in pages(self.kube, self.resource, self.decoder, namespace=self.namespace, fields=self.fields):
            if not begun:  # not before the API server has answered: a try that fails is no news
                yield ListBegun()
                begun = True
            for each in page.objects:
                yield Seen(each)
            version = page.resource_version
        yield ListEnded()
        self._version = version

    def _change(self, line: bytes) -> News[T] | None:
        """None for one that says nothing about an object. The kind is looked at before the object is decoded."""
        what = f"watch {self.resource.qualified}"
        change = _read(_lines, line, what)
        if change.type == "ERROR":
            raise error_of(_read(_status, change.object, what).code, change.object, what)
        kind = _kinds.get(change.type)
        if kind is None:
            raise KubernetesUnavailable(f"{what}: the API server sent a change of an unknown type")
        found = None if kind is ChangeKind.BOOKMARK else _decoded(change.object, self.decoder, self.resource)
        if found is None:
            self._version = _read(_bare, change.object, what).metadata.resource_version or self._version
            return None
        self._version = found.resource_version or self._version
        return Gone(found) if kind is ChangeKind.DELETED else Seen(found)


def _decoded(raw: bytes, decoder: msgspec.json.Decoder[T], resource: Resource) -> T | None:
    """None: it was not understood."""
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        _log.warning("object not understood, left out", resource=resource.qualified, problem=str(error)[:_PROBLEM])
        return None


def _read(decoder: msgspec.json.Decoder[_Part], data: bytes, what: str) -> _Part:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise KubernetesUnavailable(f"{what}: the API server sent what is not of the API") from error
