"""Changes to the documents of an image, at random: values of other types, keys in another case, fields more or fewer.

A seed gives the same change every time. What comes of it is not known: containerd judges.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

from imagecache.oci import mediatypes

Document = dict[str, Any]
_Path = tuple[str | int, ...]

_VALUES: tuple[Any, ...] = (
    *(None, "", "x", 0, 1, -1, 2.0, 1.5, True, 10**30, "layers", "linux", "sha256:x", "\ud800"),
    *([], {}, [None], {"a": None}, [""], ["a"], [[]], {"a": "b"}, {"a": 1}),
)
_TYPES = (
    *(mediatypes.OCI_INDEX, mediatypes.OCI_MANIFEST, mediatypes.DOCKER_LIST, mediatypes.DOCKER_MANIFEST),
    *(mediatypes.OCI_CONFIG, mediatypes.DOCKER_CONFIG, "application/octet-stream", "text/plain"),
    *(mediatypes.OCI_LAYER, mediatypes.OCI_LAYER_GZIP, mediatypes.OCI_LAYER_ZSTD, mediatypes.DOCKER_LAYER),
    *(mediatypes.DOCKER_LAYER_GZIP, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
)
_KEYS = (
    *("schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "annotations", "subject", "platform"),
    *("artifactType", "urls", "data", "size", "digest", "rootfs", "history", "os", "architecture", "variant"),
    *("os.version", "os.features", "created", "author", "container_config", "Labels", "Env", "Cmd", "User", "Volumes"),
    *("ExposedPorts", "StopSignal", "WorkingDir", "Entrypoint"),
)


def changed(document: Document, chance: random.Random) -> tuple[Document, str]:
    """The document with one change, and what it is."""
    result = copy.deepcopy(document)
    path = chance.choice([each for each in _paths(result) if each])
    parent: Any = result
    for step in path[:-1]:
        parent = parent[step]
    last = path[-1]
    what = chance.choice(["value", "value", "type", "less", "more", "case"])
    value = chance.choice(_TYPES if what == "type" else _VALUES)
    key = chance.choice(_KEYS)
    if what in {"value", "type"}:
        parent[last] = value
    elif what == "less":
        del parent[last]
    elif what == "more" or not isinstance(last, str):
        (parent if isinstance(parent, dict) else result)[key] = value
    else:
        parent[chance.choice([last.upper(), last.title(), last.lower()])] = parent.pop(last)
    return result, f"{what} at {'.'.join(map(str, path))} ({key}: {value!r})"


def _paths(value: object, at: _Path = ()) -> Iterator[_Path]:
    yield at
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for step, item in items:
        yield from _paths(item, (*at, step))
