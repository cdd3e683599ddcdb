"""What others need from the Kubernetes API. The fake is ``testkit.kube``, the suite ``suites.kube``."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from imagecache.api.yamltext import JSON
from imagecache.kube.resources import Resource

Object = dict[str, JSON]
"""A Kubernetes object as JSON values."""


class ChangeKind(enum.Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    """Nothing changed; the object carries a newer resourceVersion to resume from, and nothing else."""


@dataclass(frozen=True, slots=True)
class Change:
    kind: ChangeKind
    object: Object


@dataclass(frozen=True, slots=True)
class Listing:
    items: tuple[Object, ...]
    resource_version: str
    """Where a watch begins."""


class Kube(Protocol):
    """Every method raises a ``KubernetesError`` of ``imagecache.errors``; returned objects are the caller's own.

    ``namespace`` is for namespaced resources; empty means all of them where many objects are meant.
    """

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        """Raises ObjectNotFound."""

    async def list(self, resource: Resource, *, namespace: str = "", labels: str = "", fields: str = "") -> Listing:
        """Every object, in pages. ``labels`` and ``fields`` are selectors in Kubernetes' own text form."""

    def watch(
        self, resource: Resource, *, resource_version: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Change]:
        """Changes after ``resource_version``, until the server ends the stream (minutes). Raises WatchExpired."""

    async def create(self, resource: Resource, item: Object, *, namespace: str = "") -> Object:
        """Returns the object as stored. Raises ObjectExists, ObjectRefused."""

    async def patch(
        self, resource: Resource, name: str, patch: Object, *, namespace: str = "", subresource: str = ""
    ) -> Object:
        """Merge patch (RFC 7386): null removes a key, lists are replaced. ``subresource``: empty or ``status``.

        With ``metadata.resourceVersion`` in the patch it raises ObjectConflict when the object is another one by now.
        """

    async def delete(self, resource: Resource, name: str, *, namespace: str = "", uid: str = "") -> None:
        """Raises ObjectNotFound; ObjectConflict when ``uid`` is given and the object is another one."""


class ClusterKube(Kube, Protocol):
    """What only an API server has: objects by the hundred thousand, and lists that are merged by a key."""

    async def page(self, resource: Resource, *, namespace: str = "", fields: str = "", following: str = "") -> bytes:
        """One page of a list, as the API server sends it. ``following``: ``metadata.continue`` of the page before.

        Raises WatchExpired when there is nothing to go on from any more.
        """

    def lines(
        self, resource: Resource, *, resource_version: str, namespace: str = "", fields: str = ""
    ) -> AsyncIterator[bytes]:
        """As ``watch``, each change as the API server sends it: one line of JSON. An error may be among them."""

    async def strategic_patch(self, resource: Resource, name: str, patch: Object, *, namespace: str = "") -> None:
        """Strategic merge patch, of kinds that the API server was built with: a list with a key is merged by it.

        ``{"$patch": "delete"}`` beside the key removes an entry. With ``metadata.uid`` in the patch it raises
        ObjectNotFound when the object of that name is another one; with ``metadata.resourceVersion`` ObjectConflict
        when the object has changed since then. Raises ObjectRefused.
        """
