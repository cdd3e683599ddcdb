"""Carries decisions about pods out: patches, events, wishes for caches. It must not decide, and keeps nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imagecache.controller.pods.autocaches import AutoCaches
from imagecache.controller.pods.decide import Action, Annotate, CreateCache, LetGo, Tell, Wait
from imagecache.controller.pods.messages import Subject, Teller
from imagecache.controller.pods.pod import Pod
from imagecache.errors import KubernetesDenied, KubernetesError, ObjectNotFound, ObjectRefused
from imagecache.kube import node_affinity
from imagecache.kube.api import ClusterKube, Object
from imagecache.kube.resources import PODS
from imagecache.match.keys import GATE, MATCHED
from imagecache.telemetry.log import get_logger

_log = get_logger(__name__)


@dataclass(slots=True)
class Done:
    """What was done for one pod by this process: its watch may lag behind, and a failure may come in the middle."""

    told: set[str] = field(default_factory=set)
    """Names of events."""
    patched: LetGo | Annotate | None = None


class Hands:
    def __init__(
        self, kube: ClusterKube, teller: Teller, caches: AutoCaches, hostnames: Callable[[Sequence[str]], list[str]]
    ) -> None:
        """``hostnames``: the values of the label kubernetes.io/hostname of the named Nodes."""
        self._kube = kube
        self._teller = teller
        self._caches = caches
        self._hostnames = hostnames

    async def carry_out(self, pod: Pod, actions: Sequence[Action], done: Done) -> None:
        """All of them in order; one that fails keeps the others from nothing, but for the letting go of a pod.

        Raises ObjectNotFound when the pod is gone, else the KubernetesError of the first that failed; ObjectConflict:
        the pod is another one by now than the decision was made for, and is to be read again.
        """
        problem: KubernetesError | None = None
        for action in actions:
            try:
                await self._carry_out(pod, action, done)
            except ObjectNotFound:
                raise
            except KubernetesError as error:
                if isinstance(action, LetGo):  # it goes on waiting, so what is told to a pod that goes is not true
                    raise
                problem = problem or error
        if problem is not None:
            raise problem

    async def _carry_out(self, pod: Pod, action: Action, done: Done) -> None:
        match action:
            case Tell():
                if action.name not in done.told:
                    await self._teller.tell(Subject.of(pod), action)
                    done.told.add(action.name)
            case LetGo() | Annotate():
                if done.patched != action:
                    await (self._let_go(pod, action) if isinstance(action, LetGo) else self._annotate(pod, action))
                    done.patched = action
            case CreateCache():
                self._caches.wish(Subject.of(pod), action)
            case Wait():
                pass

    async def _annotate(self, pod: Pod, action: Annotate) -> None:
        annotations: Object = {MATCHED: action.matched or None}
        await self._patch(pod, {"metadata": {"uid": pod.uid, "annotations": annotations}})

    async def _let_go(self, pod: Pod, action: LetGo) -> None:
        metadata: Object = {"uid": pod.uid}
        if action.matched:
            metadata["annotations"] = {MATCHED: action.matched}
        spec: Object = {"schedulingGates": [without_gate()]}
        if not action.nodes:
            await self._patch(pod, {"metadata": metadata, "spec": spec})
            return
        ask_for = node_affinity.requiring if action.required else node_affinity.preferring
        affinity: Object = {"nodeAffinity": ask_for(pod.node_affinity(), self._hostnames(action.nodes))}
        # the terms are sent as they were read: those that somebody has changed since then must not be lost
        as_read: Object = {**metadata, "resourceVersion": pod.resource_version}
        try:
            await self._patch(pod, {"metadata": as_read, "spec": {**spec, "affinity": affinity}})
        except (ObjectRefused, KubernetesDenied) as error:
            if action.required:
                raise
            _log.warning("pod is let go without preferring nodes", namespace=pod.namespace, problem=str(error))
            await self._patch(pod, {"metadata": metadata, "spec": spec})

    async def _patch(self, pod: Pod, patch: Object) -> None:
        await self._kube.strategic_patch(PODS, pod.name, patch, namespace=pod.namespace)


def without_gate() -> Object:
    """The entry of ``spec.schedulingGates`` in a strategic merge patch that takes our gate away, and no other."""
    return {"name": GATE, "$patch": "delete"}
