"""Pods that pin a cache: who gives them their gate, and which are refused (ADR 23).

From Kubernetes 1.36 on the API server adds the gate itself, by a policy without parameters and without a webhook, so
nothing in it can be out of reach or not read yet. Its expressions have an answer for every pod: with ``Fail``, one that
had none would refuse the pod.
"""

from __future__ import annotations

from imagecache.match import keys
from tools.install.admission import matched, policy, validation
from tools.install.pods import labels
from tools.install.template import Document, Node, When, given
from tools.install.values import GATED, HELD_OR_REFUSED, NAMESPACE

PODS_POLICY, NAMESPACES_POLICY = "imagecache-pinned-pods", "imagecache-pinned-namespaces"
REFUSAL = "imagecache-unheld-pods"
LABELS = labels("pins")
"""An overlay may give these objects other names: an uninstall by hand finds them by their labels."""
DEFAULTS = keys.OURS + "defaults"
"""Label of a Namespace whose annotations may pin.

Pods of all others never reach the policy's mutation, which an API server that has just started answers with 503 until
it knows the schema of pods (``mutating/dispatcher.go``).
"""
SYSTEM = "kube-system"
_MIRROR = "kubernetes.io/config.mirror"
_NAME = "kubernetes.io/metadata.name"
_ELSEWHERE: Node = [{"key": _NAME, "operator": "NotIn", "values": [SYSTEM, NAMESPACE]}]
"""The controller must not wait for itself, nor for what a cluster needs to have a controller."""
_ANNOTATIONS = "object.metadata.?annotations.orValue({})"
_HAS_GATE = f"object.spec.?schedulingGates.orValue([]).exists(gate, gate.name == '{keys.GATE}')"
_HAS_NO_NODE = "object.spec.?nodeName.orValue('') == ''"
_GATE_ADDED = f"Object{{spec: Object.spec{{schedulingGates: [Object.spec.schedulingGates{{name: '{keys.GATE}'}}]}}}}"
_CAN_BE_HELD: list[Node] = [
    {"name": "no-node", "expression": _HAS_NO_NODE},
    {"name": "no-gate", "expression": f"!{_HAS_GATE}"},
]


def pins() -> list[Document]:
    return [*_pods(), *_namespaces(), *_refusal()]


def _pin(place: str) -> str:
    """What an object's annotations pin; empty: nothing. The new key counts when both are there."""
    annotations = f"{place}.metadata.?annotations"
    return f"{annotations}[?'{keys.PIN}'].or({annotations}[?'{keys.PIN_OLD}']).orValue('').trim()"


def _pods() -> list[Document]:
    pinned: Node = {"name": "pinned", "expression": f"{_pin('object')} != ''"}
    return _gate(PODS_POLICY, [pinned, *_CAN_BE_HELD], _GATE_ADDED, {"matchExpressions": _ELSEWHERE})


def _namespaces() -> list[Document]:
    """Asked in the mutation: ``namespaceObject`` is null in matchConditions (``matchconditions/matcher.go``)."""
    silent = f"!{_ANNOTATIONS}.exists(key, key in ['{keys.PIN}', '{keys.PIN_OLD}'])"
    conditions: list[Node] = [{"name": "says-nothing-itself", "expression": silent}, *_CAN_BE_HELD]
    mutation = f"{_pin('namespaceObject')} == '' ? Object{{}} : {_GATE_ADDED}"
    selected: dict[str, Node] = {"matchLabels": {DEFAULTS: "true"}, "matchExpressions": _ELSEWHERE}
    return _gate(NAMESPACES_POLICY, conditions, mutation, selected)


def _gate(name: str, conditions: list[Node], mutation: str, namespaces: dict[str, Node]) -> list[Document]:
    spec: dict[str, Node] = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "IfNeeded",  # what a webhook after it adds may be a pin
        "matchConstraints": {"resourceRules": [matched("", "v1", ["CREATE"], "pods")]},
        "matchConditions": conditions,
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": mutation}}],
    }
    return [
        Document({"kind": "MutatingAdmissionPolicy", **_head(name), "spec": spec}, GATED),
        Document(binding(name, namespaces), GATED),
    ]


def binding(name: str, namespaces: dict[str, Node], annotations: dict[str, Node] | None = None) -> dict[str, Node]:
    """Of the MutatingAdmissionPolicy of the same name."""
    bound: Node = {"policyName": name, "matchResources": {"namespaceSelector": namespaces}}
    return {"kind": "MutatingAdmissionPolicyBinding", **_head(name, annotations), "spec": bound}


def _head(name: str, annotations: dict[str, Node] | None = None) -> dict[str, Node]:
    metadata: dict[str, Node] = {"name": name, "labels": LABELS}
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": metadata}


def _refusal() -> list[Document]:
    """A pod that names its node cannot be held: the API takes no gate beside ``nodeName``."""
    spec: dict[str, Node] = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [matched("", "v1", ["CREATE"], "pods")]},
        "matchConditions": [
            {"name": "pinned", "expression": f"{_pin('object')} != ''"},
            {"name": "no-mirror-pod", "expression": f"!('{_MIRROR}' in {_ANNOTATIONS})"},
        ],
        "validations": [
            validation(
                _HAS_NO_NODE,
                "[eci.imagecache]A pod that pins an image cache waits until it is usable, which a pod that names its "
                "node cannot: select the node by labels, or pin nothing.",
            ),
            When(
                given("pods.refuse"),
                validation(
                    _HAS_GATE,
                    "[eci.imagecache]A pod that pins an image cache waits until it is usable: it needs the scheduling "
                    f"gate {keys.GATE} beside the annotation.",
                ),
            ),
        ],
    }
    return policy(REFUSAL, spec, HELD_OR_REFUSED, {"matchExpressions": _ELSEWHERE}, labelled=LABELS)
