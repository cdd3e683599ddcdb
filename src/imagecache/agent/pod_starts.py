"""What the start of a pod took on this node: layers from caches, bytes pulled, time; and the event that says so. Pure.

A layer that several containers of the pod stand on counts once. What was pulled for the pod is what no layer image
serves and what was unpacked after its sandbox had been made. A container that starts again is no start of its pod.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from imagecache.api import columns, times
from imagecache.api.events import NORMAL
from imagecache.containerd.pod_containers import PodRef
from imagecache.kube.api import Object
from imagecache.kube.resources import PODS
from imagecache.match.events import SERVED
from imagecache.snapshotter.snapshot import LayerBelow

COMPONENT = "imagecache-agent"
_NAME = 230
"""Characters of a pod's name in that of its event, which has at most 253."""


@dataclass(frozen=True, slots=True)
class Start:
    """Of one container, or of several of one pod."""

    served: frozenset[str] = frozenset()
    """ChainIDs of layers that layer images serve."""
    others: frozenset[str] = frozenset()
    pulled: Mapping[str, int | None] = field(default_factory=dict)
    """Those of ``others`` that were pulled while the pod started, with their compressed bytes; None: not known."""
    seconds: float | None = None
    """That our snapshotter took; None: not known."""

    def plus(self, other: Start) -> Start:
        """Both together."""
        known = [each for each in (self.seconds, other.seconds) if each is not None]
        return Start(
            self.served | other.served,
            self.others | other.others,
            {**self.pulled, **other.pulled},
            sum(known) if known else None,
        )


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the event and the metrics tell."""

    layers: int
    served: int
    pulled: int
    """Layers that were pulled while the pod started."""
    pulled_bytes: int | None
    """Compressed; None: not known of each."""
    seconds: float | None
    """As in ``Start``."""

    @property
    def present(self) -> int:
        """Layers that no layer image serves, and that this node had already."""
        return self.layers - self.served - self.pulled


def fresh(layers: Iterable[LayerBelow], sandbox: dt.datetime) -> frozenset[str]:
    """ChainIDs of what was pulled for the pod whose sandbox was made then."""
    return frozenset(layer.chain for layer in layers if not layer.served and layer.created >= sandbox)


def start(layers: Iterable[LayerBelow], pulled: Mapping[str, int | None], seconds: float | None) -> Start:
    """Of one container."""
    known = tuple(layers)
    return Start(
        frozenset(layer.chain for layer in known if layer.served),
        frozenset(layer.chain for layer in known if not layer.served),
        pulled,
        seconds,
    )


def facts(started: Start) -> PodFacts:
    sizes = list(started.pulled.values())
    known = [size for size in sizes if size is not None]
    return PodFacts(
        layers=len(started.served) + len(started.others),
        served=len(started.served),
        pulled=len(sizes),
        pulled_bytes=sum(known) if len(known) == len(sizes) else None,
        seconds=started.seconds,
    )


def text(known: PodFacts) -> str:
    """``8/8 layers from cache, 0 B pulled, 41 ms``; without the time where our snapshotter was not asked."""
    pulled = known.pulled_bytes
    parts = [
        f"{known.served}/{known.layers} layers from cache",
        f"{columns.size(pulled, blank=' ') if pulled is not None else columns.count(known.pulled, 'layer')} pulled",
    ]
    if known.seconds is not None:
        milliseconds = known.seconds * 1000
        parts.append(f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms")
    return ", ".join(parts)


def event(pod: PodRef, known: PodFacts, node: str, now: dt.datetime) -> Object:
    """The Event on the pod. Its name follows from the pod's uid, so the API server takes one for each pod."""
    mark = hashlib.sha256(f"{SERVED}/{pod.uid}".encode()).hexdigest()[:16]
    stamp = times.render(now)
    return {
        "metadata": {"name": f"{pod.name[:_NAME].rstrip('-.')}.{mark}", "namespace": pod.namespace},
        "involvedObject": {
            "apiVersion": PODS.api_version,
            "kind": PODS.kind,
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        },
        "type": NORMAL,
        "reason": SERVED,
        "message": text(known),
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": {"component": COMPONENT, "host": node},
    }


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, and a count."""

    quiet: float = 5.0
    """Without another container of the pod, until all have started as far as anyone can tell: kubelet starts them one
    after the other."""
    longest: float = 120.0
    """From the first container on, while layers are pulled on the node: they may be those of the next one."""
    most: int = 500
    """Pods that wait at a time: more than kubelet has on a node."""


@dataclass(slots=True)
class _Pod:
    first: float
    last: float
    start: Start


class Waiting:
    """Pods of which more containers may start. Times are those of one monotonic clock."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._pods: dict[PodRef, _Pod] = {}

    def __len__(self) -> int:
        return len(self._pods)

    def add(self, pod: PodRef, started: Start, now: float) -> bool:
        """A container has started. False: the pod that has waited longest is forgotten for it."""
        known = self._pods.get(pod)
        if known is not None:
            known.last, known.start = now, known.start.plus(started)
            return True
        self._pods[pod] = _Pod(now, now, started)
        if len(self._pods) <= self._patience.most:
            return True
        del self._pods[next(iter(self._pods))]
        return False

    def take(self, now: float, *, pulling: bool) -> list[tuple[PodRef, PodFacts]]:
        """Remove and return the pods that have started. ``pulling``: some layer is pulled on this node right now."""
        due = [pod for pod, known in self._pods.items() if self._is_due(known, now, pulling=pulling)]
        return [(pod, facts(self._pods.pop(pod).start)) for pod in due]

    def _is_due(self, known: _Pod, now: float, *, pulling: bool) -> bool:
        quiet = not pulling and now - known.last >= self._patience.quiet
        return quiet or now - known.first >= self._patience.longest
