"""Leases that outlive a failure, by name."""

import datetime as dt

from imagecache.containerd.client import lease_name

_SECONDS = 3600
_START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_one_that_is_taken_again_has_half_its_life_left() -> None:
    for late in range(0, _SECONDS, 60):
        now = _START + dt.timedelta(seconds=late)
        taken = lease_name("imc-a", now, _SECONDS)
        first = next(
            moment
            for moment in (_START + dt.timedelta(seconds=second) for second in range(-_SECONDS, _SECONDS))
            if lease_name("imc-a", moment, _SECONDS) == taken
        )
        assert now - first < dt.timedelta(seconds=_SECONDS / 2)
