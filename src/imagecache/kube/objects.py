"""Reading plain JSON objects: names, versions, texts at a path. It must not do I/O."""

from __future__ import annotations

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
    """The text at a path; empty when there is none."""
    value = at(item, *path)
    return value if isinstance(value, str) else ""


def texts(item: JSON, *path: str) -> dict[str, str]:
    """The mapping of text to text at a path; empty when there is none."""
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
