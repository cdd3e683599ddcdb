"""The Kubernetes API for commands that only look, and what they read there."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from imagecache.concurrency import run_all
from imagecache.errors import KubernetesDenied, ObjectNotFound
from imagecache.kube import connection, objects
from imagecache.kube.api import Kube, Object
from imagecache.kube.client import KubeClient
from imagecache.kube.resources import (
    CONFIG_MAPS,
    EVENTS,
    IMAGE_CACHES,
    NAMESPACES,
    NODE_IMAGE_CACHES,
    PODS,
    Resource,
)
from imagecache.match import selectors
from imagecache.settings.table import Settings


@dataclass(frozen=True, slots=True)
class Cluster:
    kube: Kube
    namespace: str
    """That commands mean when none is named: of the kubeconfig's context, or of the Pod that we run in."""


OpenCluster = Callable[[Settings], AbstractAsyncContextManager[Cluster]]


@dataclass(frozen=True, slots=True)
class Read:
    """What could be read."""

    documents: tuple[Object, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be, for people."""


@asynccontextmanager
async def open_cluster(settings: Settings) -> AsyncIterator[Cluster]:
    """The cluster that kubectl would ask. Raises InvalidSetting."""
    access = connection.find(settings.kubeconfig, os.environ, Path.home())
    async with KubeClient(access) as kube:
        yield Cluster(kube, access.namespace)


async def around(kube: Kube, namespaces: Iterable[str]) -> Read:
    """What a match of pods in these namespaces depends on.

    That is ImageCaches and, as far as we may read them, reports of nodes, Namespaces and eci-profile. Raises
    KubernetesError.
    """
    found = await run_all(
        _list(kube, IMAGE_CACHES),
        _permitted(_list(kube, NODE_IMAGE_CACHES), "on which nodes caches are usable is not known"),
        _permitted(
            _get(kube, CONFIG_MAPS, selectors.CONFIG_MAP, selectors.NAMESPACE), "defaults of eci-profile do not count"
        ),
        *(
            _permitted(_get(kube, NAMESPACES, name), f"defaults of Namespace {name} do not count")
            for name in sorted(set(namespaces))
        ),
    )
    return _joined(found)


async def pod(kube: Kube, namespace: str, name: str) -> Object:
    """Raises KubernetesError."""
    try:
        return await kube.get(PODS, name, namespace=namespace)
    except ObjectNotFound as error:
        raise ObjectNotFound(
            f"there is no pod {name} in the namespace {namespace}",
            hint="name another namespace with -n NAMESPACE; `kubectl get pods --all-namespaces` has all pods",
        ) from error


async def events(kube: Kube, item: Object) -> Read:
    """The Events about an object, as far as we may read them. Raises KubernetesError."""
    about = f"involvedObject.uid={objects.uid(item)}"
    return await _permitted(_list(kube, EVENTS, objects.namespace(item), about), "events are not shown")


async def _list(kube: Kube, resource: Resource, namespace: str = "", fields: str = "") -> Read:
    return Read((await kube.list(resource, namespace=namespace, fields=fields)).items)


async def _get(kube: Kube, resource: Resource, name: str, namespace: str = "") -> Read:
    return Read((await kube.get(resource, name, namespace=namespace),))


async def _permitted(work: Coroutine[object, object, Read], without: str) -> Read:
    """What is read; nothing when it does not exist, and nothing with a note when we may not read it."""
    try:
        return await work
    except ObjectNotFound:
        return Read()
    except KubernetesDenied as error:
        return Read(notes=(f"{without}: {error}",))


def _joined(found: Iterable[Read]) -> Read:
    parts = tuple(found)
    return Read(
        tuple(item for part in parts for item in part.documents), tuple(text for part in parts for text in part.notes)
    )
