"""A strategic merge patch of the kinds that our parts patch so: what it does to lists that have a key.

Source: k8s.io/api ``core/v1`` (patchMergeKey), apimachinery ``strategicpatch``. It must not know other kinds' lists.
"""

from __future__ import annotations

import copy

from imagecache.api.yamltext import JSON
from imagecache.kube.api import Object

_KEYS: dict[tuple[str, ...], str] = {
    ("spec", "schedulingGates"): "name",
    ("spec", "imagePullSecrets"): "name",
    ("spec", "containers"): "name",
    ("spec", "initContainers"): "name",
    ("spec", "volumes"): "name",
}
_DIRECTIVE = "$patch"


def merged(item: Object, patch: Object, path: tuple[str, ...] = ()) -> Object:
    """``item`` after the patch; neither is changed."""
    found = copy.deepcopy(item)
    for key, value in patch.items():
        before, where = found.get(key), (*path, key)
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            found[key] = merged(before if isinstance(before, dict) else {}, value, where)
        elif isinstance(value, list) and where in _KEYS:
            entries = _by_key(before if isinstance(before, list) else [], value, where)
            found[key] = entries
            if not entries:  # Go leaves an empty list out
                del found[key]
        else:
            found[key] = copy.deepcopy(value)
    return found


def _by_key(before: list[JSON], patch: list[JSON], path: tuple[str, ...]) -> list[JSON]:
    key = _KEYS[path]
    entries = {each[key]: each for each in before if isinstance(each, dict)}
    for change in patch:
        if not isinstance(change, dict):
            raise TypeError(f"{path}: an entry of a list with a key is a mapping")
        if change.get(_DIRECTIVE) == "delete":
            entries.pop(change[key], None)
        else:
            entries[change[key]] = merged(entries.get(change[key], {}), change, path)
    return list(entries.values())
