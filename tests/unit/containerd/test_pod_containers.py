"""Whose a container is, from what CRI and kubelet record."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from imagecache.containerd.api import ContainerRecord
from imagecache.containerd.pod_containers import PodContainer, PodRef, pod_container

LABELS = {
    "io.cri-containerd.kind": "container",
    "io.kubernetes.container.name": "main",
    "io.kubernetes.pod.name": "web-0",
    "io.kubernetes.pod.namespace": "team",
    "io.kubernetes.pod.uid": "uid-1",
}


def recorded(*, attempt: int = 0) -> bytes:
    """As containerd 2.4 writes it; Go leaves out an attempt of 0."""
    name = {"name": "main", "attempt": attempt} if attempt else {"name": "main"}
    config = {"metadata": name, "image": {"image": "sha256:1"}, "envs": [{"key": "PASSWORD", "value": "hunter2"}]}
    metadata = {
        "ID": "c",
        "Name": "main_web-0_team_uid-1_0",
        "SandboxID": "s",
        "Config": config,
        "ImageRef": "sha256:1",
    }
    return json.dumps({"Version": "v1", "Metadata": metadata}).encode()


RECORD = ContainerRecord("c", "imagecache", "c", labels=LABELS, cri=recorded())


def test_a_container_of_a_pod() -> None:
    assert pod_container(RECORD) == PodContainer(PodRef("team", "web-0", "uid-1"), "s", restarted=False)


def test_a_container_that_starts_again() -> None:
    found = pod_container(replace(RECORD, cri=recorded(attempt=3)))

    assert found is not None
    assert found.restarted


@pytest.mark.parametrize(
    "other",
    [
        {"labels": LABELS | {"io.cri-containerd.kind": "sandbox"}, "cri": b""},
        {"labels": {}},
        {"labels": {key: value for key, value in LABELS.items() if not key.endswith("uid")}},
        {"cri": b""},
        {"cri": b"not JSON"},
        {"cri": b'{"Version": "v1", "Metadata": {"SandboxID": "s", "Config": null}}'},
        {"cri": b'{"Version": "v1", "Metadata": null}'},
    ],
    ids=["sandbox", "nerdctl's", "no uid", "nothing", "no JSON", "no config", "null"],
)
def test_what_is_none(other: dict[str, dict[str, str] | bytes]) -> None:
    assert pod_container(replace(RECORD, **other)) is None  # type: ignore[arg-type]  # fields by name


def test_what_cri_records_is_shown_to_nobody() -> None:
    assert "hunter2" not in repr(RECORD)
    assert "hunter2" not in repr(pod_container(RECORD))
