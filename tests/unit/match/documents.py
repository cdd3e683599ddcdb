"""Objects as an API server has them, for tests of what is read from documents."""

from __future__ import annotations

from typing import Any

import msgspec

from imagecache.api import dump, ids, phases, times
from imagecache.api.types import (
    API_VERSION,
    KIND,
    ImageCache,
    Metadata,
    NodeCounts,
    Spec,
    StatusImage,
)
from tests.unit.match.situations import DIGEST, NOW

Object = dict[str, Any]


def image_cache(
    name: str, *images: str, uid: str = "", ready: bool = True, size: int = 1000, nodes: tuple[int, int] = (1, 1)
) -> Object:
    """``nodes``: ready and desired."""
    uid = uid or f"uid-of-{name}"
    status = phases.begin(ids.derived_cache_id(uid), 1, NOW)
    if ready:
        built = tuple(StatusImage(image=image, platform="linux/amd64", digest=DIGEST) for image in images)
        status = phases.ready(status, 1, NOW, images=built, size=size, retention_days=None)
    counts = NodeCounts(ready=nodes[0], desired=nodes[1])
    metadata = Metadata(name=name, uid=uid, creation_timestamp=times.render(NOW), generation=1)
    status = msgspec.structs.replace(status, nodes=counts)
    cache = ImageCache(api_version=API_VERSION, kind=KIND, metadata=metadata, spec=Spec(images=images), status=status)
    return dict(dump.document(cache))


def manifest(name: str, *images: str) -> Object:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": {"images": list(images)}}


def report(node: str, *caches: Object, state: str = "Ready") -> Object:
    """The NodeImageCache of a node about these ImageCaches."""
    entries = [
        {
            "name": cache["metadata"]["name"],
            "id": cache["status"]["imageCacheId"],
            "state": state,
            "bytesTotal": 2048,
            "bytesDone": 2048,
        }
        for cache in caches
    ]
    return {
        "apiVersion": "imagecache.dev/v1",
        "kind": "NodeImageCache",
        "metadata": {"name": node},
        "status": {"mode": "proxy", "caches": entries},
    }


def namespace(name: str, *, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> Object:
    metadata = {"name": name, "labels": labels, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def profile(selectors: str) -> Object:
    metadata = {"name": "eci-profile", "namespace": "kube-system"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"selectors": selectors}}


def pod(*images: str, annotations: dict[str, str] | None = None, node: str = "", gated: bool = False) -> Object:
    spec: Object = {"containers": [{"name": f"c{number}", "image": image} for number, image in enumerate(images)]}
    if node:
        spec["nodeName"] = node
    if gated:
        spec["schedulingGates"] = [{"name": "imagecache.dev/pinned"}]
    metadata = {"name": "web", "namespace": "team", "uid": "uid-of-web", "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def event(reason: str, message: str, *, at: str, uid: str = "uid-of-web", count: int = 1) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"web.{reason}.{at[-9:-1].replace(':', '')}".lower(), "namespace": "team"},
        "involvedObject": {"kind": "Pod", "name": "web", "namespace": "team", "uid": uid},
        "type": "Normal",
        "reason": reason,
        "message": message,
        "count": count,
        "firstTimestamp": at,
        "lastTimestamp": at,
    }
