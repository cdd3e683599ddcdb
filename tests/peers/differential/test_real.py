"""Real images: Debian with Python and wheels, and the big one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testkit.oci_layout import Image
from testkit.peers.judge import Judge
from testkit.real_images import big_image, python_image

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("make", [python_image, big_image])
async def test_no_difference(judge: Judge, make: Callable[[], Image]) -> None:
    verdict = await judge.compare(make())
    assert not verdict.differences, "\n".join(verdict.differences[:40])
    assert not verdict.refused
