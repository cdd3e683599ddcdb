"""The controller's part for pods, wired: beside the reconciler of ImageCaches, and what lets all pods go for good.

It must not decide.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from imagecache.clock import Clock, SystemClock
from imagecache.controller.pods.reconciler import PodDependencies, PodReconciler
from imagecache.controller.pods.release import release
from imagecache.controller.reconciler import Reconciler
from imagecache.kube import connection
from imagecache.kube.api import ClusterKube
from imagecache.kube.client import KubeClient
from imagecache.settings.table import Settings
from imagecache.telemetry.metrics import Metrics


def pod_reconciler(
    kube: ClusterKube, reconciler: Reconciler, settings: Settings, clock: Clock, metrics: Metrics
) -> PodReconciler:
    inside = connection.in_cluster(os.environ)
    return PodReconciler(
        PodDependencies(
            kube=kube,
            informers=reconciler.informers,
            clock=clock,
            metrics=metrics,
            matched=reconciler.matched,
            used=lambda name, when: reconciler.matched(name, when, 0),
            own_namespace=settings.lease_namespace or (inside.namespace if inside else ""),
            auto_create=settings.pods_auto_create,
            auto_caches=settings.auto_caches,
            auto_caches_per_namespace=settings.auto_caches_per_namespace,
        )
    )


async def run_when(synced: list[asyncio.Event], pods: PodReconciler) -> None:
    """Before caches and what nodes have of them are known, a pinned cache would be told to be unknown."""
    for each in synced:
        await each.wait()
    await pods.run()


async def release_pods(settings: Settings) -> int:
    """Let every held pod of the cluster go; how many. Raises InvalidSetting, KubernetesError."""
    async with KubeClient(connection.find(settings.kubeconfig, os.environ, Path.home())) as kube:
        return await release(kube, SystemClock())
