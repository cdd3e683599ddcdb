import pytest

from imagecache.layer.tar_numbers import decimal, numeric, octal, pax_time


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"644\0\0\0\0\0", 0o644),
        (b"   644 \0", 0o644),
        (b"77777777", 0o77777777),
        (b"64\00044\0\0", 0o64),
        (b"        ", 0),
        (bytes(8), 0),
        (b"\x80\0\0\0\0\0\1\0", 256),
        (b"\xff" * 8, -1),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        (b"\x80\0\0\0\x7f" + b"\xff" * 7, (1 << 63) - 1),
        (b"\xff\xff\xff\xff\x80" + bytes(7), -(1 << 63)),
    ],
)
def test_numeric(field: bytes, value: int) -> None:
    assert numeric(field) == value


@pytest.mark.parametrize(
    "field",
    [b"0000648\0", b"0_644\0\0\0", b"0o644\0\0\0", b"+644\0\0\0\0", b"-644\0\0\0\0", b"\t644\0\0\0\0", b"6 44\0\0\0\0"],
)
def test_not_octal(field: bytes) -> None:
    with pytest.raises(ValueError, match="not an octal"):
        numeric(field)


def test_octal_wraps_as_in_go() -> None:
    assert octal(b"1777777777777777777777") == -1
    with pytest.raises(ValueError, match="over 64 bits"):
        octal(b"7777777777777777777777")


@pytest.mark.parametrize("field", [b"\x80" + b"\xff" * 11, b"\xc0" + bytes(11)])
def test_base_256_over_64_bits(field: bytes) -> None:
    with pytest.raises(ValueError, match="over 64 bits"):
        numeric(field)


def test_decimal() -> None:
    assert [decimal(text) for text in (b"12", b"-12", b"+5", b"007", b"-9223372036854775808")] == [
        12,
        -12,
        5,
        7,
        -(1 << 63),
    ]


@pytest.mark.parametrize(
    "text", [b"", b"-", b"1_0", b" 1", b"1 ", b"0x1", b"1e3", b"\xd9\xa1", b"9223372036854775808", b"9" * 5000]
)
def test_not_decimal(text: bytes) -> None:
    with pytest.raises(ValueError, match="decimal number"):
        decimal(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"12", (12, 0)),
        (b"12.", (12, 0)),
        (b"1.5", (1, 500_000_000)),
        (b"1.1234567891", (1, 123_456_789)),
        (b"-1.5", (-2, 500_000_000)),
        (b"-0.25", (-1, 750_000_000)),
        (b"-3.0", (-3, 0)),
    ],
)
def test_pax_time(text: bytes, value: tuple[int, int]) -> None:
    assert pax_time(text) == value


@pytest.mark.parametrize("text", [b"", b".5", b"1.x", b"1.12345678901x", b"1.-5"])
def test_not_a_time(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a time"):
        pax_time(text)
