"""The DaemonSet whose Pod looks after a node: whether it still has one here, asked when ours is being ended.

An upgrade, a drain and a restart end a Pod, and so do a removal, another mode and a node that is selected no more. Only
after the last three is the node left. It must not touch the host.
"""

from __future__ import annotations

import asyncio

from imagecache.agent.kubernetes import KubeReporter
from imagecache.errors import KubernetesDenied, KubernetesError, ObjectNotFound
from imagecache.kube import objects
from imagecache.kube.api import Kube, Object
from imagecache.kube.resources import DAEMON_SETS, NODES
from imagecache.settings.table import Settings
from imagecache.telemetry.log import get_logger

MODE_LABEL = "imagecache.dev/mode"
"""Of the DaemonSet: its Pods of another mode are on their way out."""
_ASK_SECONDS = 10.0
_log = get_logger(__name__)


async def has_left(kube: Kube, settings: Settings) -> bool:
    """Whether no Pod of our mode will follow ours on our Node. In doubt one will.

    Our role and account go together with it: who is not allowed any more to ask has been removed.
    """
    mode = settings.mode.value
    namespace, _, name = settings.daemonset.partition("/")
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            found = await kube.get(DAEMON_SETS, name, namespace=namespace)
            if objects.text(found, "metadata", "deletionTimestamp"):
                return True
            theirs = objects.texts(found, "metadata", "labels").get(MODE_LABEL, mode)
            return theirs != mode or not await _selects(kube, found, settings.node_name)
    except (ObjectNotFound, KubernetesDenied):
        return True
    except (KubernetesError, TimeoutError) as error:
        _log.warning("the DaemonSet cannot be asked for, the node stays as it is", problem=str(error))
        return False


async def _selects(kube: Kube, daemonset: Object, node: str) -> bool:
    """By labels only: a taint that drives Pods away may go as it came. A Node that is gone may come back."""
    wanted = objects.texts(daemonset, "spec", "template", "spec", "nodeSelector")
    if not (wanted and node):
        return True
    nodes = (await kube.list(NODES, fields=f"metadata.name={node}")).items
    return all(wanted.items() <= objects.texts(item, "metadata", "labels").items() for item in nodes)


async def withdraw(kube: Kube, node: str) -> None:
    """Nothing is said of the Node any more. In a removal our role may be gone before us: then the report stays."""
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            await KubeReporter(kube, node).withdraw()
    except (KubernetesError, TimeoutError) as error:
        _log.warning("the report of this node stays", node=node, problem=str(error))
