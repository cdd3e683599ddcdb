"""When a turn may begin."""

from __future__ import annotations

import time

import pytest

from bench.fresh import wait_after


@pytest.mark.parametrize(("ago", "least", "most"), [(0, 360, 370), (300, 65, 75), (10_000, 65, 65)])
def test_a_run_that_follows_another_one_waits_longer(ago: float, least: float, most: float) -> None:
    assert least <= wait_after(time.time() - ago) <= most
