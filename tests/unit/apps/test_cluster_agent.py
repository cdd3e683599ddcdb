"""Which works the agent of a cluster's node has."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.agent.pod_credentials import KUBECONFIG
from imagecache.apps.cluster_agent import ClusterDuties
from imagecache.apps.store import open_node_store
from imagecache.clock import SystemClock
from imagecache.containerd.client import ContainerdClient
from imagecache.settings.table import Settings
from imagecache.telemetry.metrics import Metrics


@pytest.mark.parametrize(("kubeconfig", "takes"), [(str(KUBECONFIG), True), ("/etc/own.conf", False), ("", False)])
def test_credentials_are_taken_where_a_pod_hands_them_over(tmp_path: Path, kubeconfig: str, takes: bool) -> None:
    settings = Settings(node_name="worker", kubeconfig=kubeconfig, store=tmp_path / "store")
    clock = SystemClock()
    duties = ClusterDuties(open_node_store(settings, clock), settings, clock)
    works = duties.works(ContainerdClient(tmp_path / "none.sock", clock), Metrics())
    names = [getattr(work, "__qualname__", "") for work in works]
    for work in works:
        work.close()

    assert ("HandedOver.follow" in names) is takes
