"""The DaemonSet whose Pod runs on this node: whether it still selects the node, asked when our Pod is being ended.

An upgrade, a drain and a restart end a Pod, and so do a removal, another mode and a node that is no longer selected.
Only the last three mean that we leave the node. It must not touch the host.
"""

from __future__ import annotations

import asyncio

from imagecache.agent import node_affinity
from imagecache.agent.kubernetes import KubeReporter
from imagecache.errors import KubernetesDenied, KubernetesError, ObjectNotFound
from imagecache.kube import objects
from imagecache.kube.api import Kube, Object
from imagecache.kube.resources import DAEMON_SETS, NODES
from imagecache.settings.table import Settings
from imagecache.telemetry.log import get_logger

MODE_LABEL = "imagecache.dev/mode"
"""Label of the DaemonSet: when it changes, the Pods of the old mode are about to be replaced."""
_ASK_SECONDS = 10.0
"""Well below the Pod's terminationGracePeriodSeconds, since leaving the host follows and takes longer."""
_log = get_logger(__name__)


async def has_left(kube: Kube, settings: Settings) -> bool:
    """Whether no Pod of our mode follows ours on our Node. In doubt one does: leaving a host by mistake costs more.

    A removal deletes our role and account too, so a denied request means that we were removed.
    """
    try:
        # not asyncio.timeout: in a task that is being cancelled, as here, it does not time out (Python 3.11.2)
        return not await asyncio.wait_for(_has_us(kube, settings), _ASK_SECONDS)
    except (ObjectNotFound, KubernetesDenied):
        return True
    except (KubernetesError, TimeoutError) as error:
        _log.warning("the DaemonSet cannot be read, so the node stays as it is", problem=str(error))
        return False


async def _has_us(kube: Kube, settings: Settings) -> bool:
    """Whether the DaemonSet stays, in our mode, and selects our Node."""
    mode = settings.mode.value
    namespace, _, name = settings.daemonset.partition("/")
    found = await kube.get(DAEMON_SETS, name, namespace=namespace)
    if objects.text(found, "metadata", "deletionTimestamp"):
        return False
    if objects.texts(found, "metadata", "labels").get(MODE_LABEL, mode) != mode:
        return False
    return await _selects(kube, found, settings.node_name)


async def _selects(kube: Kube, daemonset: Object, node: str) -> bool:
    """By labels and name only: taints come and go. A Node that does not exist may be created again."""
    if not (node and node_affinity.chooses(daemonset)):
        return True
    nodes = (await kube.list(NODES, fields=f"metadata.name={node}")).items
    return all(node_affinity.selects(daemonset, item) for item in nodes)


async def withdraw(kube: Kube, node: str) -> None:
    """Delete the report of the Node. In a removal our role may be deleted before us: then the report stays."""
    try:
        await asyncio.wait_for(KubeReporter(kube, node).withdraw(), _ASK_SECONDS)  # see has_left
    except (KubernetesError, TimeoutError) as error:
        _log.warning("the report of this node could not be deleted", node=node, problem=str(error))
