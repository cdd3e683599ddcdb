"""Pods as the API server and people write them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from imagecache.errors import MalformedDocument
from imagecache.match.pod import Pod, read, read_workload, view

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "web",
        "namespace": "team",
        "uid": "u",
        "labels": {"app": "web"},
        "annotations": {"k8s.aliyun.com/eci-auto-imc": "true"},
    },
    "spec": {
        "nodeName": "node-1",
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "initContainers": [
            {"name": "i", "image": "init:1"},
            {"name": "s", "image": "side:1", "restartPolicy": "Always"},
        ],
        "containers": [
            {"name": "a", "image": "app:1", "env": [{"name": "X", "value": "Y"}]},
            {"name": "b", "image": "app:1"},
        ],
        "ephemeralContainers": [{"name": "e", "image": "debug:1"}],
        "volumes": [{"name": "v", "image": {"reference": "data:1"}}, {"name": "w", "emptyDir": {}}],
        "imagePullSecrets": [{"name": "robot"}, {}],
        "schedulingGates": [{"name": "example.com/other"}, {"name": "imagecache.dev/pinned"}],
    },
}


def test_what_matters_of_a_pod() -> None:
    for found in (read(POD), msgspec.json.decode(msgspec.json.encode(POD), type=Pod)):
        seen = view(found)

        assert (seen.namespace, seen.name, seen.uid, seen.node, seen.architecture) == (
            "team",
            "web",
            "u",
            "node-1",
            "arm64",
        )
        assert seen.images == ("init:1", "side:1", "app:1", "app:1", "data:1")
        assert seen.pull_secrets == ("robot", "")
        assert (seen.labels, seen.annotations) == ({"app": "web"}, {"k8s.aliyun.com/eci-auto-imc": "true"})
        assert found.is_gated


@pytest.mark.parametrize("emptied", [{}, {"spec": None}, {"metadata": None, "spec": {}, "status": None}])
def test_a_pod_of_nothing(emptied: dict[str, Any]) -> None:
    seen = view(read(emptied))

    assert (seen.namespace, seen.name, seen.images, seen.node) == ("default", "", (), "")


@pytest.mark.parametrize("field", [*POD["spec"], "status"])
def test_null_is_absent_everywhere(field: str) -> None:
    whole = {**POD, "spec": {**POD["spec"], field: None}, "status": None}

    assert view(read(whole)).name == "web"


def test_null_where_the_api_server_writes_it_is_decoded_at_once() -> None:
    """The object of a BOOKMARK has no containers but null, and a template a null time."""
    text = b'{"metadata": {"creationTimestamp": null, "labels": null}, "spec": {"containers": null}, "status": {}}'

    assert msgspec.json.decode(text, type=Pod).images == ()


def test_null_inside_of_lists_and_mappings() -> None:
    found = read(
        {"metadata": {"labels": {"a": None}}, "spec": {"containers": [None, {"image": None}], "volumes": [None]}}
    )

    assert (found.images, found.metadata.labels) == (("", ""), {"a": ""})


@pytest.mark.parametrize(
    "broken",
    [{"spec": {"containers": {}}}, {"spec": {"containers": [{"image": 5}]}}, {"metadata": {"labels": {"a": 1}}}, []],
)
def test_a_wrong_type_is_refused(broken: object) -> None:
    with pytest.raises(MalformedDocument):
        read(broken)


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("apps", "Deployment"),
        ("apps", "StatefulSet"),
        ("apps", "DaemonSet"),
        ("apps", "ReplicaSet"),
        ("batch", "Job"),
        ("batch", "CronJob"),
    ],
)
def test_a_workload_makes_pods_by_its_template(group: str, kind: str) -> None:
    template = {"metadata": {"name": "ignored", "annotations": {"a": "of the template"}}, "spec": POD["spec"]}
    spec: dict[str, Any] = {"template": template}
    workload = {
        "metadata": {"name": "web", "namespace": "team", "uid": "u", "annotations": {"a": "of the workload"}},
        "spec": {"jobTemplate": {"spec": spec}} if kind == "CronJob" else spec,
    }

    found = read_workload(group, kind, workload)

    assert found is not None
    assert (found.metadata.name, found.metadata.namespace, found.metadata.uid) == ("web", "team", "")
    assert (found.metadata.annotations, found.images) == ({"a": "of the template"}, read(POD).images)


def test_a_workload_without_a_template_makes_a_pod_of_nothing() -> None:
    specs: tuple[object, ...] = (None, {}, {"template": None}, [])
    for spec in specs:
        found = read_workload("apps", "Deployment", {"metadata": {"name": "web"}, "spec": spec})
        assert found is not None
        assert (found.metadata.name, found.images) == ("web", ())


def test_others_make_none() -> None:
    assert read_workload("", "Service", {}) is None
    assert read_workload("example.com", "Pod", {}) is None
    assert read_workload("apps", "Job", {}) is None
