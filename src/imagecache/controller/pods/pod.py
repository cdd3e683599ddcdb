"""A pod as the controller follows it: what a match needs, and the node affinity that letting it go may add to.

It must not decide anything.
"""

from __future__ import annotations

import datetime as dt

import msgspec
from msgspec.structs import replace

from imagecache.api import annotations as known
from imagecache.api import times
from imagecache.kube.api import Object
from imagecache.match import pod
from imagecache.match.autocache import MIRROR, SYSTEM
from imagecache.match.keys import EXTRA_STORAGE, KEYS, MATCHED

_READ = frozenset({*KEYS, MATCHED, EXTRA_STORAGE, known.PLAIN_HTTP, known.INSECURE, MIRROR})
"""Annotations that anything here reads; all of a pod's may be 256 KiB."""


class Affinity(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    node_affinity: msgspec.Raw = msgspec.Raw()
    """As it is, since a list in it is replaced whole: what we did not know would be lost."""


class Spec(pod.Spec, frozen=True, gc=False, rename="camel"):
    affinity: Affinity | None = None


class Pod(pod.Pod, frozen=True, gc=False):
    spec: Spec = Spec()

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def resource_version(self) -> str:
        return self.metadata.resource_version

    @property
    def node(self) -> str:
        """That it is bound to; empty: none yet."""
        return self.spec.node_name

    @property
    def matched(self) -> str:
        """The cache id that is written on it, by whomever."""
        return (self.metadata.annotations or {}).get(MATCHED, "")

    @property
    def is_being_deleted(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    def is_ours(self, own_namespace: str) -> bool:
        """Whether it is any of our business: the system's pods, our own, and copies of static pods never are."""
        return self.namespace not in {SYSTEM, own_namespace} and MIRROR not in (self.metadata.annotations or {})

    def created(self, otherwise: dt.datetime) -> dt.datetime:
        return times.read(self.metadata.creation_timestamp or "") or otherwise

    def bound_for(self, now: dt.datetime) -> float:
        """Seconds since it has a node; 0: not known."""
        since = times.read(self.scheduled)
        return (now - since).total_seconds() if since is not None else 0.0

    def node_affinity(self) -> Object:
        """Empty when it has none."""
        raw = self.spec.affinity.node_affinity if self.spec.affinity else b""
        found = msgspec.json.decode(raw) if raw else None
        return found if isinstance(found, dict) else {}

    def kept(self) -> Pod:
        """The same, with the annotations that matter, and without a hold on the page or line that it was read from."""
        annotations = {key: text for key, text in (self.metadata.annotations or {}).items() if key in _READ}
        kept = replace(self, metadata=replace(self.metadata, annotations=annotations))
        if self.spec.affinity is None:
            return kept
        affinity = Affinity(self.spec.affinity.node_affinity.copy()) if self.is_gated else None
        return replace(kept, spec=replace(self.spec, affinity=affinity))


DECODER = msgspec.json.Decoder(Pod)
