"""``imagecache match``: manifests of every kind, caches of the cluster or of files, and what is printed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from imagecache.errors import KubernetesDenied, KubernetesError, KubernetesUnavailable
from imagecache.kube import objects
from imagecache.kube.resources import CONFIG_MAPS, NAMESPACES, NODE_IMAGE_CACHES, Resource
from imagecache.match import keys
from tests.unit.match.documents import image_cache, manifest, namespace, pod, profile, report
from tests.unit.match.situations import BUSYBOX, NGINX

from .conftest import Shell

AUTO = {keys.AUTO: "true"}


def written(imagecache: Shell, *documents: Any, name: str = "pods.yaml") -> str:
    return imagecache.file(name, yaml.safe_dump_all(documents))


def answered(imagecache: Shell, *args: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(imagecache("match", "-o", "json", *args).stdout)["pods"]
    return found


def deployment(**template: Any) -> dict[str, Any]:
    spec = {"template": {"metadata": {"annotations": AUTO}, "spec": {"containers": [{"image": NGINX}]}, **template}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop"}, "spec": spec}


def test_a_pod_and_the_caches_of_the_cluster(imagecache: Shell) -> None:
    cache = imagecache.put_cache("a", NGINX)
    imagecache.put_cache("b", NGINX, ready=False)

    result = imagecache("match", "-f", written(imagecache, pod(NGINX, BUSYBOX, annotations=AUTO)))

    lines = result.stdout.splitlines()
    assert lines[0] == "Pod:          team/web"
    cache_id = objects.text(cache, "status", "imageCacheId")
    assert lines[1] == f"Outcome:      hit: a ({cache_id})"
    assert [line.split() for line in lines[2:5]] == [
        ["Asked:"],
        ["KEY", "VALUE", "SAID", "BY"],
        [keys.AUTO, "true", "pod:", keys.AUTO],
    ]
    assert [line.split() for line in lines[5:8]] == [
        ["Images:"],
        ["IMAGE", "CACHED", "BY"],
        [NGINX, "a"],
    ]
    assert lines[8].split() == [BUSYBOX, "<none>"]
    assert [line.split()[0] for line in lines[9:]] == ["Candidates:", "NAME", "a", "b"]
    assert lines[-2].endswith("<taken>")
    assert lines[-1].endswith("Pending")
    assert result.stderr == ""


def test_everything_for_programs(imagecache: Shell) -> None:
    cache = imagecache.put_cache("a", NGINX)
    asks = {**AUTO, keys.CREATE: "true", keys.COUNT: "many"}

    (found,) = answered(imagecache, "-f", written(imagecache, pod(NGINX, BUSYBOX, annotations=asks)))

    assert (found["kind"], found["namespace"], found["name"]) == ("Pod", "team", "web")
    assert (found["outcome"], found["imageCache"], found["hold"]) == ("hit", "a", False)
    assert found["imageCacheId"] == objects.text(cache, "status", "imageCacheId")
    assert found["asked"]["said"][0] == {"key": keys.AUTO, "value": "true", "where": f"pod: {keys.AUTO}"}
    assert found["images"] == [{"image": NGINX, "cachedBy": ["a"]}, {"image": BUSYBOX, "cachedBy": []}]
    assert found["candidates"][0] | {"id": ""} == {
        "name": "a",
        "id": "",
        "exact": 1,
        "repository": 0,
        "size": 1000,
        "created": "2024-05-01T12:00:00Z",
        "won": True,
        "why": "",
    }
    assert found["creates"]["images"] == ["docker.io/library/busybox:1.36", "docker.io/library/nginx:1.25"]
    assert [event["reason"] for event in found["events"]] == ["SuccessfulHitImageCache"]
    assert len(found["notes"]) == 1


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"])
def test_what_makes_pods(imagecache: Shell, kind: str) -> None:
    imagecache.put_cache("a", NGINX)
    workload = deployment() | {"kind": kind, "apiVersion": "batch/v1" if kind.endswith("Job") else "apps/v1"}
    if kind == "CronJob":
        workload["spec"] = {"jobTemplate": {"spec": workload["spec"]}}

    (found,) = answered(imagecache, "-f", written(imagecache, workload))

    assert (found["kind"], found["namespace"], found["name"], found["imageCache"]) == (kind, "team", "shop", "a")


def test_several_documents_in_several_files(imagecache: Shell) -> None:
    imagecache.put_cache("a", NGINX)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"}}
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop"}}
    both = written(imagecache, service, deployment(), settings, service, pod(BUSYBOX))
    listed = imagecache.file("more.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": [pod(NGINX)]}))

    result = imagecache("match", "-f", both, "-f", listed)

    heads = [line for line in result.stdout.splitlines() if line.startswith(("Deployment:", "Pod:", "Outcome:"))]
    assert [line.split()[1] for line in heads] == ["team/shop", "hit:", "team/web", "missed:", "team/web", "hit:"]
    assert result.stderr == "note: ignored: Service, ConfigMap\n"


def test_defaults_are_the_clusters_and_those_of_the_files_win(imagecache: Shell) -> None:
    imagecache.put_cache("a", NGINX)
    imagecache.put_cache("b", NGINX)
    imagecache.put(NAMESPACES, namespace("team", annotations={keys.PIN: "a"}))
    rule = {"name": "off", "effect": {"annotations": {keys.AUTO: "false", keys.PIN: "b"}}}
    imagecache.put(CONFIG_MAPS, profile(json.dumps([rule])), "kube-system")
    elsewhere = pod(NGINX)
    elsewhere["metadata"]["namespace"] = "other"
    pods = written(imagecache, pod(NGINX), elsewhere)

    of_cluster = answered(imagecache, "-f", pods)
    own = written(imagecache, namespace("team"), profile(""), name="own.yaml")
    of_files = answered(imagecache, "-f", pods, "-f", own)

    assert [found["asked"]["said"][0]["where"] for found in of_cluster] == [
        f"namespace team: {keys.PIN}",
        f"selector off: {keys.PIN}",
    ]
    assert [found["asked"]["said"] for found in of_files] == [[], []]


def test_files_alone_when_they_have_caches(imagecache: Shell) -> None:
    imagecache.put_cache("of-the-cluster", NGINX)
    ready = image_cache("a", NGINX)
    bound = pod(NGINX, node="node-1")
    own = written(imagecache, ready, report("node-1", ready), manifest("planned", BUSYBOX), name="caches.yaml")
    pods = written(imagecache, bound, deployment(spec={"containers": [{"image": BUSYBOX}]}))

    result = imagecache("match", "-f", pods, "-f", own, "-o", "json")

    assert [found["imageCache"] for found in json.loads(result.stdout)["pods"]] == ["a", "planned"]
    assert [found["namespace"] for found in json.loads(result.stdout)["pods"]] == ["team", "default"]
    assert result.stderr == "note: ImageCache planned has no status: taken as one that is Ready\n"
    assert imagecache.kube.calls[-1][0] != "list", "the cluster is not asked"


def test_the_namespace_of_who_names_none(imagecache: Shell) -> None:
    file = written(imagecache, deployment())

    assert answered(imagecache, "-f", file)[0]["namespace"] == "team"
    assert answered(imagecache, "-f", file, "-n", "shop")[0]["namespace"] == "shop"


def test_as_with_auto_create(imagecache: Shell) -> None:
    file = written(imagecache, deployment())

    assert answered(imagecache, "-f", file)[0]["creates"] is None
    assert answered(imagecache, "-f", file, "--pods-auto-create", "true")[0]["creates"]["name"].startswith(
        "auto-create-for-"
    )
    assert "Creates:      auto-create-for-" in imagecache("match", "--pods-auto-create", "true", "-f", file).stdout


def test_what_may_not_be_read_is_noted(imagecache: Shell) -> None:
    def denied(verb: str, resource: Resource, name: str) -> KubernetesError | None:
        del name
        closed = {NODE_IMAGE_CACHES, NAMESPACES, CONFIG_MAPS}
        return KubernetesDenied(f"cannot {verb} {resource.plural}") if resource in closed else None

    imagecache.put_cache("a", NGINX)
    imagecache.kube.failure = denied

    result = imagecache("match", "-f", written(imagecache, pod(NGINX)))

    assert result.stdout.splitlines()[1].startswith("Outcome:      hit: a")
    assert result.stderr.splitlines() == [
        "note: on which nodes caches are usable is not known: cannot list nodeimagecaches",
        "note: defaults of eci-profile do not count: cannot get configmaps",
        "note: defaults of Namespace team do not count: cannot get namespaces",
    ]


def test_a_cluster_that_does_not_answer(imagecache: Shell) -> None:
    imagecache.kube.failure = lambda verb, resource, name: KubernetesUnavailable("it is away")  # noqa: ARG005 - all fail

    result = imagecache("match", "-f", written(imagecache, pod(NGINX)), code=70)

    assert result.stderr == "error: it is away\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: Service", "the files have no Pod, and nothing that makes pods"),
        ("", "the files have no Pod, and nothing that makes pods"),
        ("just text", "the files have no Pod, and nothing that makes pods"),
        ("{", "not YAML"),
        ("apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 5}]}", "Pod: Expected `str`, got `int`"),
        ("apiVersion: eci.alibabacloud.com/v1\nkind: ImageCache\nspec: {}\n---\napiVersion: v1\nkind: Pod", "metadata"),
    ],
)
def test_files_that_are_wrong(imagecache: Shell, text: str, problem: str) -> None:
    result = imagecache("match", "-f", imagecache.file("wrong.yaml", text), code=2)

    assert problem in result.stderr


def test_foreign_texts_do_not_command_the_terminal(imagecache: Shell) -> None:
    asks = {keys.PIN: "a\x1b[31m", keys.AUTO: "\x1b]0;title\x07"}

    result = imagecache("match", "-f", written(imagecache, pod(NGINX, "\x1b[2J", annotations=asks)))

    assert "\x1b" not in result.stdout + result.stderr
    assert r"a\x1b[31m" in result.stdout
