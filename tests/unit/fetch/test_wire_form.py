"""Which form of a layer is asked for: the faster one, as measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagecache.fetch.wire_form import WireForm
from imagecache.settings.choices import StoreCompression

MB = 1_000_000


def ask(form: WireForm, count: int, *, plain: float, packed: float) -> list[bool]:
    """Which of so many requests are for the compressed form; rates in MB/s."""
    asked = []
    for _ in range(count):
        asked.append(form.packed())
        form.took(8 * MB, 8 / (packed if asked[-1] else plain), packed=asked[-1])
    return asked


@pytest.mark.parametrize("setting", [StoreCompression.ALWAYS, StoreCompression.NEVER])
def test_what_the_setting_says(setting: StoreCompression) -> None:
    asked = ask(WireForm(setting), 200, plain=1, packed=1000)

    assert set(asked) == {setting is StoreCompression.ALWAYS}


@pytest.mark.parametrize(
    ("plain", "packed", "faster"),
    [(110, 300, True), (110, 120, False), (110, 110, False), (1000, 400, False), (10, 30, True)],
)
def test_both_are_tried_and_the_faster_one_goes_on(plain: float, packed: float, *, faster: bool) -> None:
    asked = ask(WireForm(StoreCompression.AUTO), 60, plain=plain, packed=packed)

    assert asked[:6] == [False] * 3 + [True] * 3
    assert set(asked[6:]) == {faster}


def test_time_to_unpack_counts() -> None:
    """Blocks that come four times as fast, and are unpacked more slowly than they would come as they are."""
    form = WireForm(StoreCompression.AUTO)
    form.unpacked(8 * MB, 8 / 400)

    assert not any(ask(form, 60, plain=500, packed=2000)[6:])


def test_a_network_that_becomes_slow_is_noticed() -> None:
    form = WireForm(StoreCompression.AUTO)
    ask(form, 100, plain=1000, packed=400)

    asked = ask(form, 128, plain=100, packed=300)

    assert set(asked[64:]) >= {True}
    assert sum(asked[64:]) >= 60


def test_and_one_that_becomes_fast() -> None:
    form = WireForm(StoreCompression.AUTO)
    ask(form, 100, plain=100, packed=300)

    asked = ask(form, 128, plain=1000, packed=400)

    assert sum(asked[64:]) <= 4


def test_requests_before_any_answer() -> None:
    form = WireForm(StoreCompression.AUTO)

    assert [form.packed() for _ in range(9)] == [False] * 3 + [True] * 3 + [False] * 3


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.integers(1, 1 << 40)), max_size=300))
def test_the_other_form_is_tried_now_and_then_whatever_was_measured(
    answers: list[tuple[bool, float, int]],
) -> None:
    form = WireForm(StoreCompression.AUTO)
    for packed, seconds, size in answers:
        form.packed()
        form.took(size, seconds, packed=packed)
    for _ in range(6):
        form.packed()

    assert {form.packed() for _ in range(64)} == {False, True}
