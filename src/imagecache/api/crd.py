"""The two CustomResourceDefinitions, as documents.

``imagecaches.eci.alibabacloud.com`` accepts every manifest that either published generation of Alibaba's accepts
(eci-api §1): no defaults in the spec (the generations differ), no bounds, unknown fields kept as generation A keeps
them. What they mean is in ``effective_spec``. ``tools/render.py`` writes ``config/crd/`` from here. It must not do I/O.
"""

from __future__ import annotations

from imagecache.api import nodes, types
from imagecache.api.yamltext import JSON

Document = dict[str, JSON]
_UNSEEN: Document = {"default": {"observedGeneration": -1}}
"""What tools that wait (kstatus) must see of an object that no controller has seen: another generation than its own."""


def image_cache() -> Document:
    """Cluster-scoped, as a PersistentVolume is: pods of every namespace may use the images.

    Not in the category ``all``, where both published generations have it (eci-api §1.1).
    """
    return _definition(
        group=types.GROUP,
        version="v1",
        names={
            "kind": types.KIND,
            "listKind": f"{types.KIND}List",
            "plural": "imagecaches",
            "singular": "imagecache",
            "shortNames": ["ic", "imc"],
        },
        columns=[
            _column("Age", "date", ".metadata.creationTimestamp"),
            _column("CacheId", "string", ".status.imageCacheId"),
            _column("Phase", "string", ".status.phase"),
            _column("Progress", "string", ".status.progress"),
            _column("Nodes", "string", ".status.display.nodes", wide=True),
            _column("Size", "string", ".status.display.size", wide=True),
            _column("Reason", "string", ".status.reason", wide=True),
        ],
        schema=_open(
            "A set of container images that is pulled once and kept as an immutable bundle. Pods on every node that is "
            "assigned the bundle start from it without pulling.",
            {"spec": _spec(), "status": _status() | _UNSEEN},
            required=["spec"],
        ),
    )


def node_image_cache() -> Document:
    return _definition(
        group=nodes.GROUP,
        version=nodes.VERSION,
        names={
            "kind": nodes.KIND,
            "listKind": f"{nodes.KIND}List",
            "plural": "nodeimagecaches",
            "singular": "nodeimagecache",
            "shortNames": ["nic"],
        },
        columns=[
            _column("Mode", "string", ".status.mode"),
            _column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            _column("Age", "date", ".metadata.creationTimestamp"),
            _column("Used", "integer", ".status.usedBytes", wide=True),
            _column("Free", "integer", ".status.freeBytes", wide=True),
        ],
        schema=_object(
            "The state of the ImageCaches on one node. Written only by the agent on that node; named like the Node and "
            "owned by it.",
            {"spec": _object("Empty: there is nothing to configure.", {}), "status": _node_status()},
        ),
    )


def all_documents() -> dict[str, Document]:
    """By file name of ``config/crd/``."""
    return {
        f"{types.RESOURCES}.yaml": image_cache(),
        f"nodeimagecaches.{nodes.GROUP}.yaml": node_image_cache(),
    }


def _spec() -> Document:
    return _open(
        "What to cache. A change of what a Ready cache is made from, by annotations too, starts a new build; the old "
        "bundle stays usable until "
        "it is done.",
        {
            "images": _list(
                _text(""),
                "References of the images to cache, as pods write them: nginx:1.25, registry.example.com/team/app:1.4. "
                "At most 20; with more the cache fails.",
                minItems=1,
            ),
            "imagePullSecrets": _list(
                _text(""),
                "Secrets with the credentials of private registries, each as namespace:name, for example "
                "default:my-registry. Type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg. While one is "
                "missing, the cache waits (on a plain host it fails); status.reason names it.",
                nullable=True,
            ),
            "imageCacheSize": _whole(
                "Maximum size of all images together, in GiB. Default and minimum: 20. A build that needs more fails.",
                nullable=True,
            ),
            "retentionDays": _whole(
                "Days until cache and object are deleted, 1 to 65536, from status.startTime; when it is added or "
                "changed after the build, from that moment. An update does not prolong it. Omitted or 0: kept for "
                "ever. A failed cache is always deleted after 24 hours.",
                nullable=True,
            ),
        },
        required=["images"],
    )


def _status() -> Document:
    return _open(
        "Observed state. Written by the controller.",
        {
            "phase": _text(
                "Pending (waiting, status.reason has why, or resolving images), Creating, Ready (usable), Failed "
                "(someone has to change something), Updating, or UpdateFailed (the old bundle is still usable)."
            ),
            "observedGeneration": _whole(
                "Generation of the spec that the status is about; -1 before the controller has seen the object."
            ),
            "progress": _text("Share of the bytes that are downloaded and converted, for example 42%."),
            "imageCacheId": _text("Id of the bundle: imc- and 20 lowercase letters and digits."),
            "bundleDigest": _text(
                "SHA-256 of the document of that bundle. Nodes read no other, so they need not trust the store."
            ),
            "reason": _text("Why it failed or waits, and what to do."),
            "startTime": _text(
                "When the first build started or was last retried. Updates do not change it.",
                nullable=True,
            ),
            "lastUpdatedTime": _text("When this status last changed.", nullable=True),
            "expireDateTime": _text("When the cache and this object will be deleted.", nullable=True),
            "retentionDays": _whole("The retention that expireDateTime was computed with."),
            "size": _whole("Bytes of the bundle's layer images, each counted once."),
            "lastMatchedTime": _text("When a pod was matched with the cache last.", nullable=True),
            "matches": _whole(
                "Pods that were matched with the cache. Written once a minute at most; a killed controller loses those "
                "of that minute."
            ),
            "attempt": _attempt(),
            "events": _list(_event(), "The newest 50 events of the build, oldest first.", nullable=True),
            "conditions": _conditions(
                "The conditions Ready, Building, Reconciling, Stalled, Serving, Degraded; TagDrifted, once a tag was "
                "checked; NameTaken, once another ImageCache owned a name of its images on a node."
            ),
            "images": _list(_image(), "The images of the bundle."),
            "nodes": _open(
                "Numbers of nodes that should have the cache, have it, and failed to get it. For each node: "
                "kubectl get nodeimagecaches -o yaml.",
                {name: _whole(f"Nodes {meaning}.") for name, meaning in _NODE_COUNTS.items()},
            ),
            "display": _open(
                "Texts of the columns of kubectl get -o wide.",
                {
                    "nodes": _text("Ready and desired nodes, for example 2/3."),
                    "size": _text("Size for people, for example 245MiB."),
                },
            ),
        },
    )


def _image() -> Document:
    return _open(
        "What a reference resolved to, for one platform.",
        {
            "image": _text("The reference as in spec.images."),
            "platform": _text("Of the nodes that it is for, for example linux/amd64."),
            "digest": _text("Digest of the index or manifest that the reference named when the cache was built."),
            "size": _whole("Bytes of its compressed layers."),
            "private": _truth("A credential was needed to read it."),
            "lastCheckedTime": _text(
                "When the tag was looked up last. While it names the same it is written once an hour at most."
            ),
            "verified": _truth(
                "It is what its name means: the reference has a digest, or the registry's certificate was verified, or "
                "an administrator lists the registry (insecureRegistries). One that is not gets no name in k8s.io."
            ),
            "drifted": _truth("The tag names something else by now."),
            "currentDigest": _text("What the tag names, when it has drifted."),
        },
    )


def _attempt() -> Document:
    """What the controller remembers of builds."""
    return _open(
        "The build that runs, that is tried again, or that was last.",
        {
            "imageCacheId": _text("Id of the bundle that it makes."),
            "wanted": _text("Fingerprint of what it was asked for: images, platforms, registries, size and secrets."),
            "failures": _whole("How often in a row it failed for a reason that passes."),
            "faults": _whole(
                "How often its result was not what was asked for or was lost, or it ended for a reason that is a fault "
                "of imagecache. The third time the cache fails."
            ),
            "nextTime": _text("When it is tried again.", nullable=True),
            "secrets": _text("Versions of the pull secrets that a registry has refused."),
            "configuration": _text("Version of the registries' configuration that it failed with."),
        },
    )


def _event() -> Document:
    """The keys that people read; the other keys of both generations are kept without a description."""
    return _open(
        "Something that happened once or several times. Kubernetes deletes its own Events after an hour; these stay.",
        {
            "type": _text("Normal or Warning."),
            "reason": _text("What kind of event it is, one word: Pulling, Pulled, Ready, or the reason of a failure."),
            "message": _text("What happened, and what to do if it is a Warning."),
            "name": _text("Its subject: an image reference, or the cache's name."),
            "count": _whole("How many times it has happened."),
            "firstTimestamp": _text("When it happened first.", nullable=True),
            "lastTimestamp": _text("When it happened last.", nullable=True),
            "timestamp": _text("The same as lastTimestamp.", nullable=True),
        },
    )


_NODE_COUNTS = {"desired": "that should have it", "ready": "that have it", "failed": "where it failed"}


def _node_status() -> Document:
    return _open(
        "Written by the agent.",
        {
            "mode": _text("How layers reach the runtime: proxy, native or prepull."),
            "capacityBytes": _whole("Bytes that the node may use for caches."),
            "usedBytes": _whole("Bytes that caches use."),
            "freeBytes": _whole("Bytes that are free on the filesystem that holds them."),
            "caches": _list(
                _open(
                    "One cache on this node.",
                    {
                        "name": _text("Name of the ImageCache."),
                        "id": _text("Id of the bundle: status.imageCacheId of the ImageCache."),
                        "state": _text("Pending, Fetching, Ready or Failed."),
                        "bytesTotal": _whole("Bytes of all layer images of the cache."),
                        "bytesDone": _whole("Bytes of them that are on this node."),
                        "unpackedInto": _list(
                            _text(""), "Snapshotters of other runtime handlers that have the images unpacked too."
                        ),
                        "unpackedBytes": _whole("Bytes that the images take there."),
                        "reason": _text("Why it is Pending or Failed, one word."),
                        "message": _text("Why it is Pending or Failed, and what to do."),
                    },
                    required=["name", "id", "state"],
                ),
                "The caches that are assigned to this node.",
                **_keyed_by("name"),
            ),
            "conditions": _conditions("The state of this node's agent."),
        },
    )


def _conditions(description: str) -> Document:
    fields: Document = {
        "type": _text("Name of the condition."),
        "status": _text("True, False or Unknown."),
        "reason": _text("Reason of the status, one word."),
        "message": _text("Explanation for people."),
        "lastTransitionTime": _text("When this condition's status last changed."),
        "observedGeneration": _whole("Generation of the spec that it describes."),
    }
    item = _open("A condition as everywhere in Kubernetes (metav1.Condition).", fields, required=["type", "status"])
    return _list(item, description, **_keyed_by("type"))


def _keyed_by(name: str) -> Document:
    """Server-side apply merges such a list by that field."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [name]}


def _definition(group: str, version: str, names: Document, columns: list[JSON], schema: Document) -> Document:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{group}", "labels": {"app.kubernetes.io/name": "imagecache"}},
        "spec": {
            "group": group,
            "names": names,
            "scope": "Cluster",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, *, wide: bool = False) -> JSON:
    """Kubectl shows columns of priority 1 only with ``-o wide``."""
    return {"name": name, "type": kind, "jsonPath": path} | ({"priority": 1} if wide else {})


def _object(description: str, properties: Document, *, required: list[JSON] | None = None) -> Document:
    """Unknown fields are dropped."""
    fields: Document = {"properties": properties} if properties else {}
    return {"type": "object", "description": description, **fields} | ({"required": required} if required else {})


def _open(description: str, properties: Document, *, required: list[JSON] | None = None) -> Document:
    """Unknown fields are kept: no manifest is refused, and a newer controller's status loses nothing."""
    return _object(description, properties, required=required) | {"x-kubernetes-preserve-unknown-fields": True}


def _list(items: Document, description: str, **more: JSON) -> Document:
    return {"type": "array", "description": description, "items": items, **more}


def _text(description: str, **more: JSON) -> Document:
    return {"type": "string", **({"description": description} if description else {}), **more}


def _truth(description: str) -> Document:
    return {"type": "boolean", "description": description}


def _whole(description: str, **more: JSON) -> Document:
    return {"type": "integer", "description": description, **more}
