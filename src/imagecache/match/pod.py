"""A Pod of the API, or the pods that a workload will make: what matters of the document.

``Pod`` decodes quickly and knows ``null`` where the API server writes it: a watch decodes it from bytes. ``read`` is
for what people write, and reads as Go does. It must not decide anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from imagecache import foreign_json
from imagecache.api.nodes import ARCHITECTURE_LABEL
from imagecache.match.keys import GATE
from imagecache.match.views import PodView

_TEMPLATES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("apps", "Deployment"): ("spec", "template"),
    ("apps", "StatefulSet"): ("spec", "template"),
    ("apps", "DaemonSet"): ("spec", "template"),
    ("apps", "ReplicaSet"): ("spec", "template"),
    ("batch", "Job"): ("spec", "template"),
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}
"""By group and kind: where a workload has the pod's metadata and spec."""
DEFAULT_NAMESPACE = "default"


class Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """metav1.ObjectMeta, as far as we need it of objects that are not ours."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Named(msgspec.Struct, frozen=True, gc=False):
    """A scheduling gate, or a Secret."""

    name: str = ""


class Container(msgspec.Struct, frozen=True, gc=False):
    image: str = ""


class ImageSource(msgspec.Struct, frozen=True, gc=False):
    reference: str = ""


class Volume(msgspec.Struct, frozen=True, gc=False):
    image: ImageSource | None = None


class Spec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    node_name: str = ""
    node_selector: dict[str, str] | None = None
    scheduling_gates: tuple[Named, ...] | None = None
    init_containers: tuple[Container, ...] | None = None
    containers: tuple[Container, ...] | None = None
    """None in the object of a BOOKMARK."""
    volumes: tuple[Volume, ...] | None = None
    image_pull_secrets: tuple[Named, ...] | None = None


class Condition(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    type: str = ""
    status: str = ""
    last_transition_time: str | None = None


class Status(msgspec.Struct, frozen=True, gc=False):
    phase: str = ""
    conditions: tuple[Condition, ...] | None = None


class Pod(msgspec.Struct, frozen=True, gc=False):
    """core/v1 Pod."""

    metadata: Metadata = Metadata()
    spec: Spec = Spec()
    status: Status = Status()

    @property
    def images(self) -> tuple[str, ...]:
        """What kubelet needs to start it; ephemeral containers come later."""
        return tuple(self._images())

    @property
    def is_gated(self) -> bool:
        """Whether our gate holds it."""
        return any(gate.name == GATE for gate in self.spec.scheduling_gates or ())

    @property
    def scheduled(self) -> str:
        """When it got its node, as text; empty: it has none, or that is not known."""
        for condition in self.status.conditions or ():
            if (condition.type, condition.status) == ("PodScheduled", "True"):
                return condition.last_transition_time or ""
        return ""

    def _images(self) -> Iterator[str]:
        for container in (*(self.spec.init_containers or ()), *(self.spec.containers or ())):
            yield container.image
        for volume in self.spec.volumes or ():
            if volume.image is not None:
                yield volume.image.reference


def read(value: object) -> Pod:
    """A Pod as JSON values, with ``null`` anywhere. Raises MalformedDocument for a wrong type."""
    return foreign_json.read(value, Pod, conflicts=False)


def read_workload(group: str, kind: str, value: Mapping[str, object]) -> Pod | None:
    """A Pod, or what a workload makes its pods from, under the workload's name; None for any other kind.

    Raises MalformedDocument.
    """
    if (group, kind) == ("", "Pod"):
        return read(value)
    path = _TEMPLATES.get((group, kind))
    if path is None:
        return None
    own, pod = read({"metadata": value.get("metadata")}), read(_at(value, path))
    metadata = msgspec.structs.replace(pod.metadata, name=own.metadata.name, namespace=own.metadata.namespace, uid="")
    return msgspec.structs.replace(pod, metadata=metadata)


def view(pod: Pod) -> PodView:
    metadata, spec = pod.metadata, pod.spec
    return PodView(
        namespace=metadata.namespace or DEFAULT_NAMESPACE,
        name=metadata.name,
        uid=metadata.uid,
        images=pod.images,
        labels=metadata.labels or {},
        annotations=metadata.annotations or {},
        pull_secrets=tuple(secret.name for secret in spec.image_pull_secrets or ()),
        architecture=(spec.node_selector or {}).get(ARCHITECTURE_LABEL, ""),
        node=spec.node_name,
    )


def _at(value: object, path: tuple[str, ...]) -> object:
    """The value at a path; None when there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
