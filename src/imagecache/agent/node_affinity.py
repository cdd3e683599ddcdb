"""Whether a pod template's nodeSelector and required node affinity select a Node, as the scheduler decides it.

Source: k8s.io/component-helpers, ``scheduling/corev1/nodeaffinity``. What it does not know is taken for true: leaving a
node by mistake costs more than staying on it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from imagecache.api.selector import Requirement
from imagecache.api.yamltext import JSON
from imagecache.kube import objects
from imagecache.kube.api import Object

_POD = ("spec", "template", "spec")
_TERMS = (
    *_POD,
    "affinity",
    "nodeAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
)


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
