"""``imagecache explain``: everything that the cluster knows about one pod, in text and for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imagecache.errors import KubernetesDenied, KubernetesError
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.resources import EVENTS, NODE_IMAGE_CACHES, PODS, Resource
from imagecache.match import keys
from tests.unit.match.documents import event, pod, report
from tests.unit.match.situations import BUSYBOX, NGINX

from .conftest import Shell

SERVED = "8/8 layers from cache, 0 B pulled, 41 ms"
AT = "2024-05-01T11:58:00Z"


def running(imagecache: Shell) -> Object:
    """A pod that has hit a cache on its node, with what was told about it."""
    cache = imagecache.put_cache("a", NGINX)
    imagecache.put_cache("b", BUSYBOX)
    imagecache.put(NODE_IMAGE_CACHES, report("node-1", cache))
    matched = objects.text(cache, "status", "imageCacheId")
    made = imagecache.put(PODS, pod(NGINX, BUSYBOX, annotations={keys.MATCHED: matched}, node="node-1"), "team")
    uid = objects.uid(made)
    imagecache.put(EVENTS, event("ImageCacheServed", SERVED, at=AT, uid=uid, count=2), "team")
    imagecache.put(EVENTS, event("ImageCacheMissed", "of another pod", at=AT, uid="other"), "team")
    return cache


def test_a_pod_that_runs(imagecache: Shell) -> None:
    cache = running(imagecache)
    cache_id = objects.text(cache, "status", "imageCacheId")

    result = imagecache("explain", "pod/web")

    lines = result.stdout.splitlines()
    assert lines[:5] == [
        "Pod:          team/web on node-1",
        f"Matched:      {cache_id} (a)",
        "Held:         no",
        f"Served:       {SERVED}",
        f"Outcome:      hit: a ({cache_id})",
    ]
    assert lines[5] == "Asked:        <none>"
    assert [line.split()[-1] for line in lines if line.startswith(f"  {NGINX}")] == ["a"]
    assert [line.split()[-1] for line in lines if line.startswith(f"  {BUSYBOX}")] == ["<none>"]
    on_node = lines.index("Of these on node-1 (proxy) now:")
    assert lines[on_node + 2].split() == ["a", cache_id, "Ready", "2.0KiB", "of", "2.0KiB"]
    assert lines[-1].split() == ["Normal", "ImageCacheServed", "2m", "(x2)", *SERVED.split()]
    assert any(line.split()[:1] == ["b"] and line.endswith("not on node-1") for line in lines)
    assert result.stderr == ""


def test_everything_for_programs(imagecache: Shell) -> None:
    cache = running(imagecache)
    cache_id = objects.text(cache, "status", "imageCacheId")

    found: dict[str, Any] = json.loads(imagecache("explain", "pod/web", "-o", "json").stdout)

    assert (found["kind"], found["namespace"], found["name"], found["node"]) == ("Pod", "team", "web", "node-1")
    assert found["matched"] == {"id": cache_id, "imageCache": "a"}
    assert found["held"] == {"now": False, "before": False, "why": ""}
    assert found["served"] == [SERVED]
    assert [(each["name"], each["state"], each["bytesDone"]) for each in found["onNode"]] == [("a", "Ready", 2048)]
    assert [(each["reason"], each["count"]) for each in found["podEvents"]] == [("ImageCacheServed", 2)]
    assert (found["outcome"], found["imageCache"]) == ("hit", "a")
    assert [each["name"] for each in found["candidates"]] == ["a", "b"]


def test_on_another_node(imagecache: Shell) -> None:
    """What it has of each candidate, and why that is a hit or not, whatever became of the pod on its own node."""
    running(imagecache)
    other = imagecache.put_cache("c", NGINX, BUSYBOX)
    late = imagecache.put_cache("d", NGINX)
    documents = [report("node-2", other), report("node-2", late, state="Fetching")]
    both = [entry for each in documents for entry in each["status"]["caches"]]
    imagecache.put(NODE_IMAGE_CACHES, {**documents[0], "status": {"mode": "native", "caches": both}})

    found = imagecache("explain", "pod/web", "--node", "node-2")

    lines, cache_id = found.stdout.splitlines(), objects.text(other, "status", "imageCacheId")
    assert lines[0] == "Pod:          team/web on node-1"
    assert lines[4:6] == ["As if on:     node-2", f"Outcome:      hit: c ({cache_id})"]
    assert [line.split()[0] for line in lines if line.endswith("not on node-2")] == ["a", "b", "d"]
    on_node = lines.index("Of these on node-2 (native) now:")
    assert [line.split()[:3] for line in lines[on_node + 2 : on_node + 4]] == [
        ["c", cache_id, "Ready"],
        ["d", objects.text(late, "status", "imageCacheId"), "Fetching"],
    ]
    assert [line.split()[0] for line in lines if line.endswith("the node reports nothing of it")] == ["a", "b"]
    document = json.loads(imagecache("explain", "pod/web", "--node", "node-2", "-o", "json").stdout)
    assert (document["node"], document["explainedNode"], document["outcome"]) == ("node-1", "node-2", "hit")
    assert [each["name"] for each in document["onNode"]] == ["c", "d"]


def test_another_node_without_an_agent(imagecache: Shell) -> None:
    running(imagecache)

    found = imagecache("explain", "pod/web", "--node", "node-9").stdout

    assert "Outcome:      missed" in found
    assert "Node:         node-9: no agent reports about its caches" in found


def test_a_pod_without_a_node_as_if_it_had_one(imagecache: Shell) -> None:
    cache = imagecache.put_cache("a", NGINX)
    imagecache.put(NODE_IMAGE_CACHES, report("node-1", cache))
    imagecache.put(PODS, pod(NGINX), "team")

    assert "As if on:     node-1" in imagecache("explain", "pod/web", "--node", "node-1").stdout
    assert "Outcome:      missed" in imagecache("explain", "pod/web", "--node", "node-2").stdout


def test_a_pod_that_waits_for_a_cache(imagecache: Shell) -> None:
    imagecache.put_cache("a", NGINX, ready=False)
    imagecache.put(PODS, pod(NGINX, annotations={keys.PIN_OLD: "a"}, gated=True), "team")

    lines = imagecache("explain", "pod/web").stdout.splitlines()

    assert lines[:6] == [
        "Pod:          team/web, without a node yet",
        "Matched:      <none>",
        "Held:         yes: its scheduling gate imagecache.dev/pinned is there: a does not serve yet (Pending)",
        "Served:       <nothing told>",
        "Outcome:      not complete: the pod is pinned to a, which does not serve yet",
        "Asked:",
    ]
    assert lines[7].split() == [keys.PIN, "a", "pod:", keys.PIN_OLD]


def test_a_pod_that_is_pinned_to_nothing(imagecache: Shell) -> None:
    imagecache.put(PODS, pod(NGINX, annotations={keys.PIN: "nobody"}, gated=True), "team")

    lines = imagecache("explain", "pods/web").stdout.splitlines()

    assert lines[2].endswith("there is no cache nobody")
    assert lines[4] == "Outcome:      not found: there is no cache nobody, which the pod is pinned to"


def test_a_node_without_an_agent(imagecache: Shell) -> None:
    imagecache.put(PODS, pod(NGINX, node="node-9"), "team")

    assert "Node:         node-9: no agent reports about its caches" in imagecache("explain", "web").stdout


@pytest.mark.parametrize("name", ["pod/web", "pods/web", "po/web", "web", "Pod/web"])
def test_how_a_pod_is_named(imagecache: Shell, name: str) -> None:
    imagecache.put(PODS, pod(NGINX), "shop")

    assert imagecache("explain", name, "-n", "shop").stdout.startswith("Pod:          ")


@pytest.mark.parametrize("name", ["deployment/web", "pod/", "a/b/c", ""])
def test_only_pods_are_explained(imagecache: Shell, name: str) -> None:
    assert "is not pod/NAME" in imagecache("explain", name, code=2).stderr


def test_a_pod_that_does_not_exist(imagecache: Shell) -> None:
    said = imagecache("explain", "pod/web", code=72).stderr
    assert said.startswith("error: there is no pod web in the namespace ")
    assert "-n NAMESPACE" in said


def test_what_may_not_be_read_is_noted(imagecache: Shell) -> None:
    running(imagecache)

    def denied(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        del name
        return KubernetesDenied(f"cannot {verb} {resource.plural}") if resource == EVENTS else None

    imagecache.kube.failure = denied
    result = imagecache("explain", "pod/web")

    assert result.stderr == "note: events are not shown: cannot list events\n"
    assert "Served:       <nothing told>" in result.stdout
