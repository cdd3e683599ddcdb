"""Node affinity: whether a pod template selects a Node, as the scheduler decides it, and terms that name nodes.

Source: k8s.io/component-helpers, ``scheduling/corev1/nodeaffinity``; what may change of a pod that is gated:
pkg/apis/core/validation, ``validateNodeAffinityMutation``. What is not known of a template is taken for true: leaving a
node by mistake costs more than staying on it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from imagecache.api.selector import Requirement
from imagecache.api.yamltext import JSON
from imagecache.kube import objects
from imagecache.kube.api import Object

HOSTNAME: Final = "kubernetes.io/hostname"
"""Label of a Node, which kubelet sets."""
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"
_TERMS_KEY: Final = "nodeSelectorTerms"
_WEIGHT: Final = 100
"""The highest: of nodes that can take the pod, those that have its cache first."""
_POD = ("spec", "template", "spec")
_TERMS = (*_POD, "affinity", "nodeAffinity", _REQUIRED, _TERMS_KEY)


def preferring(before: Object, hostnames: Sequence[str]) -> Object:
    """What a patch makes of a pod's node affinity, so that it prefers these nodes. Lists in it are replaced whole."""
    terms = objects.at(before, _PREFERRED)
    term: Object = {"weight": _WEIGHT, "preference": {"matchExpressions": [_among(hostnames)]}}
    return {_PREFERRED: [*(terms if isinstance(terms, list) else []), term]}


def requiring(before: Object, hostnames: Sequence[str]) -> Object:
    """The same, so that it takes no other node: beside all that it asks for already."""
    found = objects.at(before, _REQUIRED, _TERMS_KEY)
    terms: list[JSON] = [_narrowed(term, hostnames) for term in found] if isinstance(found, list) else []
    return {_REQUIRED: {_TERMS_KEY: terms or [{"matchExpressions": [_among(hostnames)]}]}}


def _narrowed(term: JSON, hostnames: Sequence[str]) -> JSON:
    """One term, of which one must hold; a term without expressions selects nothing, and may not be changed."""
    if not isinstance(term, dict) or not (term.get("matchExpressions") or term.get("matchFields")):
        return term
    expressions = term.get("matchExpressions")
    return {**term, "matchExpressions": [*(expressions if isinstance(expressions, list) else []), _among(hostnames)]}


def _among(hostnames: Sequence[str]) -> Object:
    return {"key": HOSTNAME, "operator": "In", "values": list(hostnames)}


def chooses(daemonset: Object) -> bool:
    """Whether the DaemonSet says at all on which Nodes its Pods run."""
    return bool(objects.texts(daemonset, *_POD, "nodeSelector") or objects.at(daemonset, *_TERMS))


def selects(daemonset: Object, node: Object) -> bool:
    labels = objects.texts(node, "metadata", "labels")
    terms = objects.at(daemonset, *_TERMS)
    return objects.texts(daemonset, *_POD, "nodeSelector").items() <= labels.items() and (
        not isinstance(terms, list) or not terms or any(_holds(term, labels, objects.name(node)) for term in terms)
    )


def _holds(term: JSON, labels: Mapping[str, str], name: str) -> bool:
    """One term: all of its expressions; one without any selects nothing."""
    expressions, fields = objects.at(term, "matchExpressions") or [], objects.at(term, "matchFields") or []
    if not isinstance(expressions, list) or not isinstance(fields, list):
        return True
    return bool(expressions or fields) and (
        all(_matches(each, labels) for each in expressions)
        and all(_matches(each, {"metadata.name": name}) for each in fields)
    )


def _matches(expression: JSON, labels: Mapping[str, str]) -> bool:
    key, operator = objects.text(expression, "key"), objects.text(expression, "operator")
    listed = objects.at(expression, "values")
    values = [str(each) for each in listed] if isinstance(listed, list) else []
    if operator in {"In", "NotIn"}:
        return Requirement(key, frozenset(values), wanted=operator == "In").matches(labels)
    if operator in {"Exists", "DoesNotExist"}:
        return Requirement(key, None, wanted=operator == "Exists").matches(labels)
    if operator in {"Gt", "Lt"} and values:
        return _compares(labels.get(key, ""), values[0], greater=operator == "Gt")
    return True


def _compares(label: str, bound: str, *, greater: bool) -> bool:
    try:
        return int(label) > int(bound) if greater else int(label) < int(bound)
    except ValueError:
        return False
