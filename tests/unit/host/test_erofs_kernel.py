"""What is known of kernels by their version."""

from __future__ import annotations

import pytest

from imagecache.host.erofs_kernel import may_read_zeros, needs_loop, version
from imagecache.settings.choices import MountFrom


@pytest.mark.parametrize(
    ("release", "zeros"),
    [
        ("5.15.0-91-generic", False),
        ("6.1.0-18-amd64", False),
        ("6.11.11", False),
        ("6.12", True),
        ("6.12.0-rc1", True),
        ("6.12.79-1-lts", True),
        ("6.12.80", False),
        ("6.12.101+deb13-amd64", False),
        ("6.13.12", True),
        ("6.17.0-1004-aws", True),
        ("6.18.0", True),
        ("6.18.20", True),
        ("6.18.21", False),
        ("6.18.44-fc-v657", False),
        ("6.19.10", True),
        ("6.19.11-arch1-1", False),
        ("7.0.0", False),
        ("7.1-rc2", False),
        ("10.2.1", False),
        ("unknown", False),
    ],
)
def test_kernels_that_may_read_zeros(release: str, *, zeros: bool) -> None:
    assert may_read_zeros(release) is zeros


def test_numbers() -> None:
    assert version("6.18.44-fc-v657") == (6, 18, 44)
    assert version("7.0-rc6") == (7, 0, 0)
    assert version("") == (0, 0, 0)


@pytest.mark.parametrize(
    ("mount_from", "affected", "mended"),
    [(MountFrom.AUTO, True, False), (MountFrom.FILE, False, False), (MountFrom.LOOP, True, True)],
)
def test_the_setting_and_the_kernel_decide(mount_from: MountFrom, *, affected: bool, mended: bool) -> None:
    assert needs_loop(mount_from, "6.17.3") is affected
    assert needs_loop(mount_from, "6.18.44") is mended
