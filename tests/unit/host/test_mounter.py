"""What the mounter counts. That it mounts is proven with a kernel, in ``tests/peers/test_mounter.py``."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from imagecache.errors import HostError, MountFailed
from imagecache.host.loop_devices import CONTROL, missing_node
from imagecache.host.mounter import KernelMounter, _explained
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


def test_a_loop_device_without_a_node_is_not_taken_for_the_file(tmp_path: Path) -> None:
    """moby 27886: a container's /dev has the devices that there were when it started."""
    image, target = tmp_path / "x.erofs", tmp_path / "target"
    with pytest.raises(MountFailed) as caught, _explained(image, target):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/dev/loop17")

    assert "the kernel's /dev/loop17 is not in this container's /dev" in str(caught.value)
    assert "mknod /dev/loop17 b 7 17" in caught.value.hint
    assert "no longer exists" not in f"{caught.value} {caught.value.hint}"
    for other in (CONTROL, image):
        error = FileNotFoundError(errno.ENOENT, "No such file or directory", str(other))
        assert missing_node(error) == ""
    assert missing_node(PermissionError(errno.EACCES, "Permission denied", "/dev/loop17")) == ""
