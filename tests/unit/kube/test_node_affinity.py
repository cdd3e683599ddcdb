"""Where the DaemonSet's Pods run, by nodeSelector and affinity, as the scheduler sees it; and terms that name nodes."""

from __future__ import annotations

import json

import pytest

from imagecache.api.yamltext import JSON
from imagecache.kube.api import Object
from imagecache.kube.node_affinity import chooses, preferring, requiring, selects

NODE: Object = {"metadata": {"name": "worker", "labels": {"pool": "gpu", "zone": "a", "cores": "8"}}}


def daemonset(*terms: object, selector: dict[str, str] | None = None) -> Object:
    required = {"nodeSelectorTerms": terms}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}} if terms else {}
    pod = {"nodeSelector": selector or {}, "affinity": affinity}
    found: Object = json.loads(json.dumps({"spec": {"template": {"spec": pod}}}))
    return found


def says(key: str, operator: str, *values: str) -> dict[str, object]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}


@pytest.mark.parametrize(
    ("term", "selected"),
    [
        (says("pool", "In", "gpu", "cpu"), True),
        (says("pool", "In", "cpu"), False),
        (says("pool", "NotIn", "cpu"), True),
        (says("pool", "NotIn", "gpu"), False),
        (says("eks.amazonaws.com/compute-type", "NotIn", "fargate"), True),
        (says("pool", "Exists"), True),
        (says("old", "Exists"), False),
        (says("old", "DoesNotExist"), True),
        (says("pool", "DoesNotExist"), False),
        (says("cores", "Gt", "4"), True),
        (says("cores", "Lt", "8"), False),
        (says("pool", "Gt", "4"), False),
        (says("pool", "Invented"), True),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["worker"]}]}, True),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["other"]}]}, False),
        ({}, False),
    ],
)
def test_a_term(term: object, *, selected: bool) -> None:
    assert chooses(daemonset(term))
    assert selects(daemonset(term), NODE) is selected


def test_one_term_must_hold_with_all_that_it_says() -> None:
    first: dict[str, object] = {"key": "pool", "operator": "Exists"}
    second: dict[str, object] = {"key": "zone", "operator": "In", "values": ["b"]}
    both = {"matchExpressions": [first, second]}

    assert not selects(daemonset(both), NODE)
    assert selects(daemonset(both, says("zone", "In", "a")), NODE)


def test_the_selector_must_hold_too() -> None:
    assert selects(daemonset(says("pool", "Exists"), selector={"zone": "a"}), NODE)
    assert not selects(daemonset(says("pool", "Exists"), selector={"zone": "b"}), NODE)
    assert not chooses(daemonset())
    assert selects(daemonset(), NODE)


OURS: Object = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["a", "b"]}
ZONE: Object = {"key": "zone", "operator": "In", "values": ["1"]}
REQUIRED, PREFERRED = (f"{how}DuringSchedulingIgnoredDuringExecution" for how in ("required", "preferred"))


def test_nodes_are_preferred_beside_what_is_preferred_already() -> None:
    other: Object = {"weight": 1, "preference": {"matchExpressions": [ZONE]}}
    ours: Object = {"weight": 100, "preference": {"matchExpressions": [OURS]}}

    assert preferring({}, ["a", "b"]) == {PREFERRED: [ours]}
    assert preferring({PREFERRED: [other], REQUIRED: {}}, ["a", "b"]) == {PREFERRED: [other, ours]}


def test_nodes_are_required_within_every_term() -> None:
    """One of the terms must hold, so each is narrowed; what is there already stays in front (API validation)."""
    field: Object = {"key": "metadata.name", "operator": "In", "values": ["a"]}
    terms: list[JSON] = [{"matchExpressions": [ZONE]}, {"matchFields": [field]}, {}]

    assert requiring({}, ["a", "b"]) == {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [OURS]}]}}
    assert requiring({REQUIRED: {"nodeSelectorTerms": terms}}, ["a", "b"]) == {
        REQUIRED: {
            "nodeSelectorTerms": [
                {"matchExpressions": [ZONE, OURS]},
                {"matchFields": [field], "matchExpressions": [OURS]},
                {},
            ]
        }
    }
