"""The DaemonSet whose Pod runs on this node: whether it still selects the node, asked when our Pod is being ended.

An upgrade, a drain and a restart end a Pod, and so do a removal, another mode and a node that is no longer selected.
Only the last three mean that we leave the node. It must not touch the host.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from imagecache.agent.kubernetes import KubeReporter
from imagecache.errors import KubernetesError, ObjectNotFound
from imagecache.kube import node_affinity, objects
from imagecache.kube.api import ChangeKind, Kube, Object
from imagecache.kube.informer import Informer
from imagecache.kube.resources import DAEMON_SETS, NAMESPACES, NODES
from imagecache.settings.table import Settings
from imagecache.telemetry.log import get_logger

MODE_LABEL = "imagecache.dev/mode"
"""Label of the DaemonSet: when it changes, the Pods of the old mode are about to be replaced."""
_ASK_SECONDS = 10.0
"""Well below the Pod's terminationGracePeriodSeconds, since leaving the host follows and takes longer."""
_log = get_logger(__name__)


@dataclass(slots=True)
class OwnDaemonSet:
    """The DaemonSet of our Pod: followed while the Pod runs, asked for when it ends."""

    settings: Settings
    was_deleted: bool = False
    """By what ``follow`` has seen last."""

    async def follow(self, kube: Kube) -> None:
        """Look whether it is deleted, without end.

        A removal deletes our role and account too, often before our Pod ends: then nobody answers ``has_left``. A watch
        that has begun goes on without them. That nobody answers is no evidence by itself: roles change, and an
        API server that has lost its keys knows no token.
        """
        namespace, name = self._name
        informer = Informer(kube, DAEMON_SETS, namespace=namespace, fields=f"metadata.name={name}")
        async for change in informer.changes():
            self.was_deleted = change.kind is ChangeKind.DELETED or _is_being_deleted(change.object)

    async def has_left(self, kube: Kube, seconds: float = _ASK_SECONDS) -> bool:
        """Whether no Pod of our mode follows ours on our Node.

        In doubt one does: leaving a host by mistake costs more. Where nobody answers within ``seconds``, the last that
        the watch has seen decides.
        """
        try:
            # not asyncio.timeout: in a task that is being cancelled, as here, it does not time out (Python 3.11.2)
            return not await asyncio.wait_for(self._has_us(kube), seconds)
        except ObjectNotFound:
            return True
        except (KubernetesError, TimeoutError) as error:
            what = "it was seen to be deleted" if self.was_deleted else "the node stays as it is"
            _log.warning(f"the DaemonSet cannot be read; {what}", problem=str(error))
            return self.was_deleted

    @property
    def _name(self) -> tuple[str, str]:
        namespace, _, name = self.settings.daemonset.partition("/")
        return namespace, name

    async def _has_us(self, kube: Kube) -> bool:
        """Whether the DaemonSet stays, in our mode, and selects our Node."""
        mode = self.settings.mode.value
        namespace, name = self._name
        found = await kube.get(DAEMON_SETS, name, namespace=namespace)
        if _is_being_deleted(found):
            return False
        if objects.texts(found, "metadata", "labels").get(MODE_LABEL, mode) != mode:
            return False
        # of a namespace that is being deleted the Pods go first (KEP 5080), the DaemonSet later
        if _is_being_deleted(await kube.get(NAMESPACES, namespace)):
            return False
        return await _selects(kube, found, self.settings.node_name)


def _is_being_deleted(item: Object) -> bool:
    return bool(objects.text(item, "metadata", "deletionTimestamp"))


async def _selects(kube: Kube, daemonset: Object, node: str) -> bool:
    """By labels and name only: taints come and go. A Node that does not exist may be created again."""
    if not (node and node_affinity.chooses(daemonset)):
        return True
    nodes = (await kube.list(NODES, fields=f"metadata.name={node}")).items
    return all(node_affinity.selects(daemonset, item) for item in nodes)


async def withdraw(kube: Kube, node: str) -> None:
    """Delete the report of the Node. In a removal our role may be deleted before us: then the report stays."""
    try:
        await asyncio.wait_for(KubeReporter(kube, node).withdraw(), _ASK_SECONDS)  # see OwnDaemonSet.has_left
    except (KubernetesError, TimeoutError) as error:
        _log.warning("the report of this node could not be deleted", node=node, problem=str(error))
