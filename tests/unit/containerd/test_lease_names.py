"""Leases that outlive a failure, by name."""

import datetime as dt

from imagecache.containerd.client import lease_names

_SECONDS = 3600
_START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_one_that_is_taken_again_has_half_its_life_left() -> None:
    for late in range(0, _SECONDS, 60):
        now = _START + dt.timedelta(seconds=late)
        taken = lease_names("imc-a", now, _SECONDS)[0]
        first = next(
            moment
            for moment in (_START + dt.timedelta(seconds=second) for second in range(-_SECONDS, _SECONDS))
            if lease_names("imc-a", moment, _SECONDS)[0] == taken
        )
        assert now - first < dt.timedelta(seconds=_SECONDS / 2)


def test_all_that_may_still_live_are_known() -> None:
    now = _START + dt.timedelta(seconds=1234)
    names = lease_names("imc-a", now, _SECONDS)
    for age in range(0, _SECONDS, 60):
        assert lease_names("imc-a", now - dt.timedelta(seconds=age), _SECONDS)[0] in names
    assert not {*names} & {*lease_names("imc-b", now, _SECONDS)}
