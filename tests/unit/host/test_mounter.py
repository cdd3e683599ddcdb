"""What the mounter counts. That it mounts is proven with a kernel, in ``tests/peers/test_mounter.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagecache.errors import HostError
from imagecache.host.mounter import KernelMounter
from imagecache.telemetry.metrics import Metrics


def test_failures_and_durations_are_counted(tmp_path: Path) -> None:
    metrics = Metrics()
    target = tmp_path / "target"
    target.mkdir()
    mountinfo = tmp_path / "mountinfo"
    mountinfo.touch()
    mounter = KernelMounter(mountinfo=mountinfo, metrics=metrics)

    with pytest.raises(HostError):
        mounter.mount(tmp_path / "missing", target)
    assert (value(metrics, "mount_failures_total"), value(metrics, "mount_seconds_count")) == (1.0, 0.0)


def value(metrics: Metrics, name: str) -> float:
    found = metrics.registry.get_sample_value(f"imagecache_{name}")
    assert found is not None
    return found
