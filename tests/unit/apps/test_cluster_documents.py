"""What commands read of a cluster, over the wire."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagecache.apps import cluster_documents
from imagecache.errors import KubernetesDenied, KubernetesError, ObjectNotFound
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.resources import (
    CONFIG_MAPS,
    EVENTS,
    IMAGE_CACHES,
    NAMESPACES,
    NODE_IMAGE_CACHES,
    PODS,
    Resource,
)
from imagecache.settings.table import Settings
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer
from tests.unit.match.documents import event, image_cache, namespace, pod, profile, report
from tests.unit.match.situations import NGINX


def kubeconfig(folder: Path, url: str) -> Settings:
    path = folder / "kubeconfig"
    document = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(document))
    return Settings(kubeconfig=str(path))


async def filled() -> tuple[FakeKube, Object]:
    kube, cache = FakeKube(), image_cache("a", NGINX)
    await kube.create(IMAGE_CACHES, cache)
    await kube.create(NODE_IMAGE_CACHES, report("node-1", cache))
    for name in ("team", "other"):
        await kube.create(NAMESPACES, namespace(name))
    await kube.create(CONFIG_MAPS, profile("[]"), namespace="kube-system")
    made = await kube.create(PODS, pod(NGINX), namespace="team")
    for number, uid in enumerate((objects.uid(made), "another")):
        told = event("ImageCacheMissed", "missed", at=f"2026-01-01T00:00:0{number}Z", uid=uid)
        await kube.create(EVENTS, told, namespace="team")
    return kube, made


async def test_everything_that_a_match_depends_on(tmp_path: Path) -> None:
    kube, made = await filled()
    async with KubeServer(kube) as server, cluster_documents.open_cluster(kubeconfig(tmp_path, server.url)) as cluster:
        found = await cluster_documents.around(cluster.kube, ["team", "team", "nowhere"])
        told = await cluster_documents.events(cluster.kube, made)
        item = await cluster_documents.pod(cluster.kube, cluster.namespace, "web")

    kinds = [(objects.text(each, "kind"), objects.name(each)) for each in found.documents]
    assert kinds == [
        ("ImageCache", "a"),
        ("NodeImageCache", "node-1"),
        ("ConfigMap", "eci-profile"),
        ("Namespace", "team"),
    ]
    assert found.notes == ()
    assert [objects.text(each, "involvedObject", "uid") for each in told.documents] == [objects.uid(made)]
    assert objects.uid(item) == objects.uid(made)


async def test_what_may_not_be_read_is_left_out_but_for_the_caches() -> None:
    kube, made = await filled()
    closed = {NODE_IMAGE_CACHES, NAMESPACES, CONFIG_MAPS, EVENTS}

    def denied(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        del verb, name
        return KubernetesDenied("no") if resource in closed else None

    kube.failure = denied
    found, told = await cluster_documents.around(kube, ["team"]), await cluster_documents.events(kube, made)

    assert [objects.name(each) for each in found.documents] == ["a"]
    assert (len(found.notes), len(told.notes), told.documents) == (3, 1, ())
    closed.add(IMAGE_CACHES)
    with pytest.raises(KubernetesDenied):
        await cluster_documents.around(kube, ["team"])


async def test_a_pod_that_does_not_exist() -> None:
    with pytest.raises(ObjectNotFound):
        await cluster_documents.pod(FakeKube(), "team", "web")
