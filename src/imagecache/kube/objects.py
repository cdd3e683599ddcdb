"""Plain JSON objects: names, versions, texts at a path, merge patches and selectors. It must not do I/O."""

from __future__ import annotations

import copy

from imagecache.api import selector
from imagecache.api.yamltext import JSON
from imagecache.kube.api import Object


def at(item: JSON, *path: str) -> JSON:
    """The value below these keys; None when any of them is missing."""
    for key in path:
        if not isinstance(item, dict):
            return None
        item = item.get(key)
    return item


def text(item: JSON, *path: str) -> str:
    """The text at a path; empty when it has none."""
    value = at(item, *path)
    return value if isinstance(value, str) else ""


def texts(item: JSON, *path: str) -> dict[str, str]:
    """The mapping of text to text at a path; empty when it has none."""
    value = at(item, *path)
    if not isinstance(value, dict):
        return {}
    return {key: entry for key, entry in value.items() if isinstance(entry, str)}


def name(item: Object) -> str:
    return text(item, "metadata", "name")


def namespace(item: Object) -> str:
    return text(item, "metadata", "namespace")


def uid(item: Object) -> str:
    return text(item, "metadata", "uid")


def resource_version(item: Object) -> str:
    return text(item, "metadata", "resourceVersion")


def metadata(item: Object) -> Object:
    """The object's own metadata, to be changed in place."""
    found = item.setdefault("metadata", {})
    if not isinstance(found, dict):
        raise TypeError("metadata is a mapping in every object that an API server has taken")
    return found


def merge(item: Object, patch: Object) -> Object:
    """``item`` after a merge patch (RFC 7386); neither is changed."""
    merged = copy.deepcopy(item)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            before = merged.get(key)
            merged[key] = merge(before if isinstance(before, dict) else {}, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def replacing(after: Object, *before: Object) -> Object:
    """A merge patch that makes any of these mappings the other, keys within keys too."""
    patch = dict(after)
    for each in before:
        for key, value in each.items():
            wanted = patch.get(key)
            if key not in patch:
                patch[key] = None
            elif isinstance(value, dict) and isinstance(wanted, dict):
                patch[key] = replacing(wanted, value)
    return patch


def same(one: Object, other: Object) -> bool:
    """Whether nothing but the resourceVersion differs."""
    first, second = copy.deepcopy(one), copy.deepcopy(other)
    for item in (first, second):
        metadata(item).pop("resourceVersion", None)
    return first == second


def selected(item: Object, labels: str, fields: str) -> bool:
    """Whether selectors in Kubernetes' text form take the object. ``fields`` knows ``path=value`` alone."""
    if not selector.parse(labels, "labels").matches(texts(item, "metadata", "labels")):
        return False
    for term in filter(None, fields.split(",")):
        path, _, value = term.partition("=")
        if text(item, *path.split(".")) != value:
            return False
    return True


def condition(item: Object, kind: str) -> Object:
    """One of ``status.conditions``; empty when it has none of this type."""
    found = at(item, "status", "conditions")
    every = (each for each in (found if isinstance(found, list) else ()) if isinstance(each, dict))
    return next((each for each in every if each.get("type") == kind), {})
