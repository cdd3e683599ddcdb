"""docs/reference.md: every name of the API that a user meets, with its meaning.

Fields come from the schemas, metrics and errors from their declarations. What has no description in the code (keys of
annotations, reasons) is described here; ``tests/unit/cli/test_docs.py`` looks in the source for names that are missing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from imagecache import errors
from imagecache.api import annotations as known
from imagecache.api import crd, nodes, types
from imagecache.api.types import Phase
from imagecache.errors import NextStep
from imagecache.match import events, keys
from imagecache.telemetry.metrics import Metrics

INTRODUCTION = """\
Every name of the API that a user meets: fields, annotations, phases, conditions, reasons, events, errors, metrics.
Commands are in [cli.md](cli.md), settings in [settings.md](settings.md), the values of the chart in
[values.yaml](../charts/imagecache/values.yaml). What to do about a reason is in
[troubleshooting.md](troubleshooting.md); how far this is ECI's API is in [eci-api.md](internals/eci-api.md)."""

ECI_ANNOTATIONS = {
    known.RETENTION_DAYS: "As `spec.retentionDays`, which wins; 0 also means: never.",
    known.SIZE: "GiB that the images may take; `spec.imageCacheSize` wins.",
    known.CPU_ARCH: "`amd64`, `arm64`, or both with a comma: every image must have them (one without an index is taken "
    "for each, with an event). Without it: the architectures of the cluster's nodes that an image has; on a plain host "
    "the host's. A node takes what is for its own.",
    known.OS_TYPE: "`linux`. `windows` is refused.",
    known.PLAIN_HTTP: (
        "Registries reached over plain HTTP: `host[:port]`, comma-separated, of those that an administrator lists "
        "(`insecure_registries`); not needed on loopback of a plain host."
    ),
    known.INSECURE: "Registries whose certificate is not verified, in the same form.",
    known.REUSE: "Accepted without effect: caches always share layers.",
    known.REUSE_LEGACY: "The older name of `imc-enable-reuse`.",
    known.FLASH: "Accepted without effect: every layer is usable as soon as it is written.",
}
OUR_ANNOTATIONS = {
    nodes.NODE_SELECTOR: "Label selector, `pool=gpu,zone in (a,b)`: only nodes that match get the cache.",
    nodes.PRIORITY: "Whole number; 0 when it is missing or not a whole number. "
    "A cache of a higher priority stays longer when a node lacks space.",
    nodes.ALSO_UNPACK: "`auto`, `off` or names of snapshotters, comma-separated: which snapshotters of other runtime "
    "classes get the images of this cache too. Without it: the setting `also_unpack`.",
    nodes.DIRECT_IO: "`true`: nodes in proxy mode mount the layers of this cache on loop devices, so that programs in "
    "containers can read with O_DIRECT; the setting `mount_from: loop` does that for all of a node. Containers that "
    "run keep what they have.",
    nodes.CREATED_FOR: "Of a cache that a pod had made for it: `namespace/uid` of that pod. Written by the controller.",
    nodes.REFRESH: "Any text: with another value than before, the same images are built anew, and the old content "
    "serves until then. Without it, or with the same value, nothing is.",
    nodes.REFRESH_SCHEDULE: "When that is done by itself: the five fields of cron, as in a CronJob, in UTC; "
    "`0 3 * * *` is each day at 03:00. One that cannot be read is `Degraded` and nothing else.",
    nodes.ELIMINATION: "`LRU`: the cache may be deleted when there is no room for another one (`max_caches`, "
    "`max_store_size`), least recently used first.",
}
MARKS = {
    nodes.FINALIZER: (
        "finalizer of an ImageCache",
        "The controller removes the bundle before the object disappears. Nothing waits for nodes.",
    ),
    nodes.NOT_READY_TAINT: (
        "taint of a Node",
        "A new node takes no pods until its caches are usable or `taint_timeout` has passed. The agent removes it.",
    ),
}
POD_ANNOTATIONS = {
    keys.AUTO: (
        "`true`",
        "Match with the cache that fits best. `false`: no match, no event, no cache. What caches have is used anyhow.",
    ),
    keys.AUTO_OLD: ("", "The older name of `eci-auto-imc`; of one source the new key counts."),
    keys.PIN: ("none", "Id or name of the one cache to start from: the pod waits until it is usable. Empty: none."),
    keys.PIN_OLD: ("", "The older name of `eci-imc-id`; of one source the new key counts."),
    keys.PERFECT: ("`false`", "Match only if all images of the pod are cached exactly."),
    keys.COUNT: ("none", "Match only if at least so many containers have an image that is cached exactly."),
    keys.CREATE: ("`false`", "A miss has a cache made; with `pods.autoCreate` of the chart the default is `true`."),
    keys.REQUIRE_NODE: ("`false`", "A pinned pod starts on nodes that have the cache, and on no others."),
    keys.EXTRA_STORAGE: ("`0`", "Quantity, on the pod alone: added to the 30 GiB of a cache that is made for it."),
    known.PLAIN_HTTP: ("", "On the pod alone: taken over by a cache that is made for it."),
    known.INSECURE: ("", "On the pod alone: taken over by a cache that is made for it."),
}
POD_MARKS = {
    keys.MATCHED: ("annotation of a Pod", "Id of the cache that it was matched with. Written by the controller."),
    keys.GATE: (
        "scheduling gate of a Pod",
        "Its pinned cache is not usable yet. The controller removes it; a manifest may bring it.",
    ),
    keys.AUTO_CREATED: ("label of an ImageCache", "`true`: a miss has made it."),
    keys.CREATED_FOR: ("annotation of an ImageCache", "`namespace/uid` of the pod that it was made for first."),
}
PHASES = {
    Phase.PENDING: (
        "Images are being resolved, or it waits and goes on by itself: `status.reason` has for what, "
        "`status.attempt.nextTime` until when."
    ),
    Phase.CREATING: "The build runs.",
    Phase.READY: "The bundle exists. `status.nodes` counts the nodes that have it.",
    Phase.FAILED: (
        "A person has to change something. It is built again when what it asks for changes (spec or annotations), when "
        "a Secret or the configuration of registries changes that the failure was about, or when the command is run "
        "again (plain host). After 24 h the object is deleted, whatever its retention."
    ),
    Phase.UPDATING: (
        "Built again, because it asks for something else or a refresh, or the bundle was lost; or that waits, as in "
        "Pending. The old "
        "content serves meanwhile."
    ),
    Phase.UPDATE_FAILED: "A person has to change something, as for Failed. The old content serves on.",
}
STATES = {
    nodes.CacheState.PENDING: "Not begun, or waits: for its turn, for space, for something that is retried soon.",
    nodes.CacheState.FETCHING: "Layers are fetched, or the images are attached.",
    nodes.CacheState.READY: "Usable: pods on this node start from it.",
    nodes.CacheState.FAILED: "Someone has to act. It is retried nevertheless, after 10 s to 10 min.",
}
CACHE_CONDITIONS: Sequence[tuple[str, str, str]] = (
    ("`Ready`", "`Built`", "True: the store has what the generation in `observedGeneration` asks for."),
    ("`Ready`, `Reconciling`", "`Building`", "False, True: the first build has not ended."),
    ("`Ready`, `Reconciling`", "`Updating`", "False, True: something else is built than what serves."),
    (
        "`Ready`, `Reconciling`",
        "an [error](#errors-and-exit-codes)",
        "False, True: what it waits for. It goes on by itself.",
    ),
    (
        "`Ready`, `Stalled`",
        "an [error](#errors-and-exit-codes)",
        "False, True: why it failed. Someone has to change something.",
    ),
    ("`Ready`, `Stalled`", "`Interrupted`", "False, True: stopped by Ctrl-C; run the same command to resume."),
    (
        "`Reconciling`, `Stalled`",
        "the reason of `Building`, or `Building`, `Updating`",
        "False: not so. Every cache has both, so that they can be waited for.",
    ),
    ("`Serving`", "`Built`", "True: nodes can have the content that is wanted."),
    ("`Serving`", "`Updating`, `UpdateFailed`", "True: nodes can have the content of before."),
    ("`Serving`", "`NotBuilt`", "False: nothing was built yet."),
    ("`Serving`", "`BundleLost`", "False: the store has lost it; nodes that have it keep it, and it is built again."),
    (
        "`Building`",
        "`Started`",
        (
            "True: a build is running, or has its turn next. "
            "While it is tried again and has fetched nothing, its message is the reason of the try before."
        ),
    ),
    ("`Building`", "`StartedByAgent`", "True: the same, begun by the agent of a host without Kubernetes."),
    ("`Building`", "`Built`", "False: nothing to build."),
    ("`Building`", "`Interrupted` or an [error](#errors-and-exit-codes)", "False: as above."),
    ("`Degraded`", "`AsExpected`", "False: all is well."),
    (
        "`Degraded`",
        "`NodesFailed`",
        "True: some nodes cannot use it; `kubectl get nodeimagecaches -o yaml` shows which.",
    ),
    ("`Degraded`", "`UpdateFailed`", "True: the old content serves, the new one could not be built."),
    ("`Degraded`", "`InvalidSchedule`", "True: `imagecache.dev/refresh-schedule` cannot be read; all else goes on."),
    ("`Degraded`", "an [error](#errors-and-exit-codes)", "True: the store cannot be read."),
    (
        "`NameTaken`",
        "`NameOwned`",
        (
            "True: on nodes another ImageCache owns a name of its images, which means that one's image there. The "
            "message has names, owner and node; by digest its own images are there."
        ),
    ),
    ("`NameTaken`", "`AsExpected`", "False: it has its names. It is there once another one owned any."),
    ("`TagDrifted`", "`TagMoved`", "True: a tag names something else by now than when the cache was built."),
    ("`TagDrifted`", "`AsExpected`", "False: none does. It is there once a tag was looked up."),
)
NODE_CONDITIONS: Sequence[tuple[str, str, str]] = (
    ("`Ready`", "`Working`", "True: the agent makes plans and carries them out."),
    ("`Ready`", "an [error](#errors-and-exit-codes)", "False: why it cannot."),
    ("`StoreReachable`", "`AsExpected`", "True. False with an error: the store does not answer, or refuses us."),
    ("`RuntimeReachable`", "`AsExpected`", "True. False with an error: containerd does not answer."),
    ("`InsufficientSpace`", "`DiskBudget`", "True: the caches that the message names do not fit."),
    ("`RecordsRemoved`", "`ImageCollection`", "True: image records were deleted three times within an hour."),
    ("the last two", "`AsExpected`", "False."),
    ("`HandlersServed`", "`AsExpected`", "True: pods of every runtime class can start the cached images."),
    ("`NameTaken`", "`NameOwned`", "True: other ImageCaches own names of the caches that the message names."),
    ("`NameTaken`", "`AsExpected`", "False."),
    (
        "`HandlersServed`",
        "`AlsoUnpackOff`",
        (
            "False: pods of the runtime handlers that the message names cannot start cached images: their snapshotter "
            "does not get them."
        ),
    ),
)
EVENTS: Sequence[tuple[str, str, str]] = (
    ("`Pulling`", "Normal", "An image was resolved, its layers are downloaded."),
    ("`Pulled`", "Normal", "Every layer of the image is in the store."),
    ("`Ready`", "Normal", "The bundle exists: images, layers, size."),
    ("`NodesReady`", "Normal", "Every selected node has it."),
    (
        "`Noted`",
        "Normal",
        "Something in the document is ignored or changed, or an image is unusual.",
    ),
    ("`Updating`", "Normal", "Built again, and why."),
    ("`Retrying`", "Normal", "Tried again after a failure, and why."),
    ("`WillExpire`", "Warning", "A retention was added or changed after the build: when the object is deleted."),
    ("`WillNotExpire`", "Normal", "Its retention was taken away."),
    ("`Expired`", "Normal", "Its retention has ended; the object is deleted."),
    ("`Evicted`", "Normal", "It may go (`imagecache.dev/elimination-strategy`) and there was no room; it is deleted."),
    ("`InvalidSchedule`", "Warning", "`imagecache.dev/refresh-schedule` cannot be read, and why."),
    ("`AttachFailed`", "Warning", "Plain host: built, but not attached in containerd."),
    ("an [error](#errors-and-exit-codes)", "Warning", "Why the build failed, or what it waits for."),
)
POD_EVENTS: Sequence[tuple[str, str, str]] = (
    (f"`{events.HIT}`", "Normal", "A cache was found for it: the pinned one, or the best match."),
    (f"`{events.MISSED}`", "Warning", "No cache is used: what is missing is pulled."),
    (f"`{events.NOT_COMPLETE}`", "Normal", "The pinned cache is not usable yet: the pod waits. Again every hour."),
    (f"`{events.NOT_FOUND}`", "Warning", "There is no such cache: the pod waits. Again every hour."),
    (f"`{events.FAILED}`", "Warning", "The build of the pinned cache has failed, and why: the pod waits. Once."),
    (f"`{events.RELEASED}`", "Warning", "imagecache is being uninstalled: the pod is let go without its cache."),
    (f"`{events.AUTO_CREATED}`", "Normal", "A cache is being made for its images."),
    (f"`{events.AUTO_CREATE_FAILED}`", "Warning", "None is made, or the build failed, and why."),
    (
        f"`{events.SERVED}`",
        "Normal",
        "The agent of its node, once: layers from caches, bytes pulled, time ([how to read it](pod-facts.md)).",
    ),
)
NEXT = {
    NextStep.RETRY: "nobody: may work later",
    NextStep.FIX_INPUT: "user",
    NextStep.FIX_ENVIRONMENT: "administrator",
    NextStep.REPORT_BUG: "the developers: please report it",
}

ERRORS = """\
"Nobody: may work later" means that the same call may succeed later. A build retries its requests, a node its fetches,
and a cache its builds: it fails for no such reason, and for no error of the store ([waiting](waiting.md)), but for
`DigestMismatch`, whose bytes it has fetched twice by then. A person may repeat a command.

`PullSecretUnavailable` depends on who builds. In a cluster the cache waits as `Pending` until the Secret can be read.
On a plain host the cache is `Failed` with that reason, and the command exits with 3 (`NotFound`) when the Secret does
not exist, with 2 (`InvalidInput`) when it holds no credentials; the agent builds the cache again soon after the Secret
exists."""


def reference(exit_codes: str) -> str:
    """The whole page. ``exit_codes`` is the table of exit codes that are not an error's."""
    image_cache, node = (document["spec"] for document in (crd.image_cache(), crd.node_image_cache()))
    marks = [(f"`{key}`", where, meaning) for key, (where, meaning) in {**MARKS, **POD_MARKS}.items()]
    sections = {
        "ImageCache": f"`{types.API_VERSION}`, cluster scope, short names `ic`, `imc`.\n\n{_fields(image_cache)}",
        "NodeImageCache": f"`{nodes.API_VERSION}`, cluster scope, short name `nic`. One for each node that has an "
        f"agent, named like it, owned by it, written by that agent alone.\n\n{_fields(node)}",
        "Annotations of an ImageCache": _annotations(),
        "Annotations of a Pod": "Read by the controller; what they do, and the order of precedence, is in "
        f"[pods.md](pods.md).\n\n{_pod_annotations()}",
        "Finalizer, gate, taint and marks": table(("name", "what", "meaning"), marks),
        "Phases of an ImageCache": _enumerated(PHASES),
        "States of a cache on a node": f"In `status.caches[]` of a NodeImageCache.\n\n{_enumerated(STATES)}",
        "Conditions of an ImageCache": table(("condition", "reason", "status and meaning"), CACHE_CONDITIONS),
        "Conditions of a NodeImageCache": table(("condition", "reason", "status and meaning"), NODE_CONDITIONS),
        "Reasons of a cache on a node": "`InsufficientSpace`, `RecordsRemoved` and (of one that is Ready) `NameTaken` "
        "as above; everything else is an [error](#errors-and-exit-codes).",
        "Events": "In `status.events` (the newest 50), and as Events of the object in namespace `default`, from "
        f"`imagecache-controller`.\n\n{table(('reason', 'type', 'when'), EVENTS)}",
        "Events of a Pod": "On the pod, in its namespace.\n\n" + table(("reason", "type", "when"), POD_EVENTS),
        "Errors and exit codes": "An error's name is the reason in conditions, events, reports and JSON output; its "
        f"code is the exit code of a command.\n\n{ERRORS}\n\n{_errors()}\n\nOther exit codes:\n\n{exit_codes}",
        "Metrics": "Agent and controller serve `/metrics`, `/livez` and `/readyz` at `metrics_address`. Beside these "
        f"there are the Prometheus client's `process_*` and `python_info`.\n\n{_metrics()}",
    }
    parts = ["# Reference", INTRODUCTION, *(f"## {title}\n{text}" for title, text in sections.items())]
    return "\n\n".join(parts) + "\n"


def _fields(definition: Any) -> str:
    """Every field of the one version's schema, with its path."""
    schema = definition["versions"][0]["schema"]["openAPIV3Schema"]
    rows = [row for name in ("spec", "status") for row in _field(name, schema["properties"][name])]
    return table(("field", "type", "meaning"), rows)


def _field(path: str, schema: Any) -> Iterator[tuple[str, str, str]]:
    kind, items = schema["type"], schema.get("items", {})
    if kind == "array":
        yield f"`{path}[]`", f"list of {items['type']}", _joined(schema, items)
    else:
        yield f"`{path}`", kind, _joined(schema)
    for name, child in (items or schema).get("properties", {}).items():
        yield from _field(f"{path}[].{name}" if items else f"{path}.{name}", child)


def _joined(*schemas: Any) -> str:
    return " ".join(filter(None, (schema.get("description", "") for schema in schemas)))


def _annotations() -> str:
    ours = table(("annotation", "meaning"), _rows(OUR_ANNOTATIONS))
    portable = table(("annotation", "meaning"), _rows(ECI_ANNOTATIONS))
    ignored = ", ".join(f"`{key.removeprefix(known.PREFIX)}`" for key in sorted(known.CLOUD_ONLY))
    return (
        f"Ours:\n\n{ours}\n\nECI's:\n\n{portable}\n\nAccepted and ignored, with a note in the events, because they are "
        f"about Alibaba Cloud's networks and registries; each with the prefix `{known.PREFIX}`: {ignored}."
    )


def _pod_annotations() -> str:
    rows = [(f"`{key}`", default, meaning) for key, (default, meaning) in POD_ANNOTATIONS.items()]
    return table(("annotation", "default", "meaning"), rows)


def _rows(meanings: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [(f"`{key}`", meaning) for key, meaning in meanings.items()]


def _enumerated(meanings: Mapping[Any, str]) -> str:
    return table(("value", "meaning"), [(f"`{each.value}`", meaning) for each, meaning in meanings.items()])


def _errors() -> str:
    rows = [
        (f"`{kind.__name__}`", str(kind.exit_code), NEXT[kind.next_step], _first_sentence(kind))
        for kind in error_classes()
    ]
    rows.sort(key=lambda row: int(row[1]))
    return table(("error", "code", "who acts", "meaning"), rows)


def error_classes() -> list[type[errors.ImageCacheError]]:
    """Those that are raised: the families without members of their own, and all members."""
    found = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.ImageCacheError)
    ]
    return [kind for kind in found if kind.next_step is not NextStep.REPORT_BUG or kind is errors.InternalError]


def _first_sentence(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n")[0].replace("``", "`")


def _metrics() -> str:
    metrics = Metrics()
    labels = {"imagecache_build_info": ("version",)}  # has its one value at once, and nobody keeps the object
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            labels[metric._name] = metric._labelnames  # noqa: SLF001 - the library has no public name for them
    rows = []
    for family in metrics.registry.collect():
        if family.name in labels:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            shown = ", ".join(f"`{label}`" for label in labels[family.name])
            rows.append((f"`{name}`", family.type, shown, family.documentation))
    return table(("metric", "type", "labels", "meaning"), rows)


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    cells = [header, tuple("---" for _ in header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells
    )
