"""The pods of one namespace as the API has them: what they wait for, what was written on them, what they were told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from imagecache.api.yamltext import JSON
from imagecache.kube.objects import at, text
from imagecache.match.keys import GATE, MATCHED
from testkit.cluster.installed import Installed
from testkit.cluster.pods import PodSpec
from testkit.peers.processes import wait_until
from testkit.peers.programs import PeerFailed

Pod = dict[str, JSON]


@dataclass(frozen=True, slots=True)
class Told:
    """An Event on a pod."""

    reason: str
    type: str
    message: str
    component: str
    """Who tells it."""
    pod: str
    uid: str
    """Of the pod."""


@dataclass(frozen=True, slots=True)
class SeenPods:
    """Pods by name. What waits raises PeerFailed with the pod and its events."""

    system: Installed
    namespace: str = "default"
    earlier: frozenset[str] = frozenset()
    """Uids of pods that do not count: those of other tests, which may have had the same names."""

    @classmethod
    def from_now(cls, system: Installed) -> SeenPods:
        """Without what was told before."""
        return cls(system, earlier=frozenset(each.uid for each in cls(system).told()))

    def create(self, *pods: PodSpec) -> None:
        self.system.cluster.apply(*(pod.document() for pod in pods))

    def get(self, name: str) -> Pod:
        """Empty when there is none."""
        return self.system.read(f"{self._path('pods')}/{name}") or {}

    def of(self, app: str) -> list[Pod]:
        """Those with the label ``app``, oldest first."""
        listed = at(self.system.read(f"{self._path('pods')}?labelSelector={quote(f'app={app}')}"), "items")
        found = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        return sorted(found, key=lambda pod: (text(pod, "metadata", "creationTimestamp"), name_of(pod)))

    def gates(self, name: str) -> list[str]:
        return gates(self.get(name))

    def matched(self, name: str) -> str:
        """The id that was written on it; empty: none."""
        return matched(self.get(name))

    def told(self, *names: str) -> list[Told]:
        """Of pods with these names, whenever they were; without names of all."""
        about_pods = f"{self._path('events')}?fieldSelector=involvedObject.kind%3DPod"
        if len(names) == 1:  # a busy cluster has thousands of Events
            about_pods += f",involvedObject.name%3D{names[0]}"
        listed = at(self.system.read(about_pods), "items")
        found = [_told(item) for item in (listed if isinstance(listed, list) else []) if isinstance(item, dict)]
        return [each for each in found if each.uid not in self.earlier and (not names or each.pod in names)]

    def reasons(self, name: str) -> list[str]:
        """Of what the pod of now was told, each as often as there is an Event."""
        uid = text(self.get(name), "metadata", "uid")
        return [each.reason for each in self.told(name) if each.uid == uid]

    def _path(self, plural: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/{plural}"

    # waiting

    def wait(self, name: str, what: str, true: Callable[[], bool], seconds: float = 30) -> None:
        if not wait_until(true, seconds=seconds, every=0.1):
            events = "\n".join(f"{each.reason}: {each.message}" for each in self.told(name))
            raise PeerFailed(f"{name}: {what}, not in {seconds} s\n{json.dumps(self.get(name), indent=1)}\n{events}")

    def wait_held(self, *names: str) -> None:
        """The scheduler has seen it with our gate."""
        for name in names:
            self.wait(name, "held", lambda name=name: is_held(self.get(name)))  # type: ignore[misc]

    def wait_running(self, *names: str, seconds: float = 60) -> None:
        for name in names:
            self.wait(name, "running", lambda name=name: is_running(self.get(name)), seconds)  # type: ignore[misc]

    def wait_matched(self, name: str, cache_id: str = "") -> str:
        """An id was written on it, or this one."""

        def true() -> bool:
            found = self.matched(name)
            return found == cache_id if cache_id else bool(found)

        self.wait(name, f"matched {cache_id}", true)
        return self.matched(name)

    def wait_told(self, name: str, reason: str, seconds: float = 30) -> str:
        """The message of the last Event of this reason on the pod of now."""
        self.wait(name, reason, lambda: reason in self.reasons(name), seconds)
        uid = text(self.get(name), "metadata", "uid")
        return [each.message for each in self.told(name) if (each.reason, each.uid) == (reason, uid)][-1]


def gates(pod: Pod) -> list[str]:
    found = at(pod, "spec", "schedulingGates")
    return [text(gate, "name") for gate in found] if isinstance(found, list) else []


def matched(pod: Pod) -> str:
    return text(pod, "metadata", "annotations", MATCHED)


def name_of(pod: Pod) -> str:
    return text(pod, "metadata", "name")


def node_of(pod: Pod) -> str:
    return text(pod, "spec", "nodeName")


def is_held(pod: Pod) -> bool:
    conditions = at(pod, "status", "conditions")
    reasons = [text(each, "reason") for each in conditions] if isinstance(conditions, list) else []
    return GATE in gates(pod) and "SchedulingGated" in reasons


def is_running(pod: Pod) -> bool:
    """All of its containers are ready."""
    conditions = at(pod, "status", "conditions")
    return isinstance(conditions, list) and any(
        (text(each, "type"), text(each, "status")) == ("Ready", "True") for each in conditions
    )


def _told(item: Pod) -> Told:
    return Told(
        reason=text(item, "reason"),
        type=text(item, "type"),
        message=text(item, "message"),
        component=text(item, "source", "component") or text(item, "reportingComponent"),
        pod=text(item, "involvedObject", "name"),
        uid=text(item, "involvedObject", "uid"),
    )
