"""Containers of pods, as CRI has recorded them in containerd: whose they are, and whether it is their first start.

The same from containerd 1.6 to 2.4: CRI's labels and its record of a container (``internal/cri/labels``,
``internal/cri/store/container/metadata.go``), and the labels that kubelet gives it (``pkg/kubelet/types/labels.go``).
The record has the container's environment too: only what is declared here is read. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from imagecache.containerd.api import ContainerRecord

CRI_EXTENSION = "io.cri-containerd.container.metadata"
"""Extension of a container's record in which CRI keeps its own; a sandbox has none of this name."""
_KIND = "io.cri-containerd.kind"
_CONTAINER = "container"
_POD = "io.kubernetes.pod."


class _Attempt(msgspec.Struct):
    attempt: int = 0


class _Config(msgspec.Struct):
    metadata: _Attempt


class _Metadata(msgspec.Struct):
    sandbox: str = msgspec.field(name="SandboxID")
    config: _Config = msgspec.field(name="Config")


class _Versioned(msgspec.Struct):
    metadata: _Metadata = msgspec.field(name="Metadata")


_decoder = msgspec.json.Decoder(_Versioned)


@dataclass(frozen=True, slots=True)
class PodRef:
    """A pod, as kubelet names it. A static pod has the uid of its manifest here, as in kubelet's own events."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class PodContainer:
    pod: PodRef
    sandbox: str
    """Id of the pod's sandbox, which is a container too."""
    restarted: bool
    """Another container of the same name was there before: its pod has started long ago."""


def pod_container(record: ContainerRecord) -> PodContainer | None:
    """None for a sandbox, and for what is not kubelet's."""
    pod = PodRef(*(record.labels.get(_POD + part, "") for part in ("namespace", "name", "uid")))
    if record.labels.get(_KIND) != _CONTAINER or not (pod.namespace and pod.name and pod.uid):
        return None
    try:
        found = _decoder.decode(record.cri).metadata
    except msgspec.DecodeError:
        return None
    return PodContainer(pod, found.sandbox, restarted=found.config.metadata.attempt > 0)
