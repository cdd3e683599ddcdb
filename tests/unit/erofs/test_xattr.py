"""Extended attributes on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imagecache.erofs import xattr
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import DEFAULT


def test_bytes_of_one_attribute() -> None:
    body = xattr.encode({b"user.ab": b"xyz"})
    assert body == bytes(12) + b"\x02\x01\x03\x00abxyz" + bytes(3)
    assert xattr.count(len(body)) == 4
    assert xattr.size(4) == len(body)


def test_no_attributes_take_no_bytes() -> None:
    assert xattr.encode({}) == b""
    assert (xattr.count(0), xattr.size(0)) == (0, 0)


@pytest.mark.parametrize(
    ("name", "index", "suffix"),
    [
        (b"user.a", 1, b"a"),
        (b"system.posix_acl_access", 2, b""),
        (b"system.posix_acl_default", 3, b""),
        (b"trusted.overlay.opaque", 4, b"overlay.opaque"),
        (b"security.capability", 6, b"capability"),
    ],
)
def test_prefixes(name: bytes, index: int, suffix: bytes) -> None:
    body = xattr.encode({name: b"v"})
    assert (body[12], body[13], body[16 : 16 + len(suffix)]) == (len(suffix), index, suffix)
    assert xattr.decode(body) == {name: b"v"}


def test_the_order_of_the_dictionary_does_not_matter() -> None:
    pairs = [(b"user.b", b"2"), (b"trusted.z", b"3"), (b"user.a", b"1")]
    assert xattr.encode(dict(pairs)) == xattr.encode(dict(reversed(pairs)))


@pytest.mark.parametrize("name", [b"", b"user", b"user.", b"system.other", b"lustre.lov", b"x.y", b"user.a\0b"])
def test_names_that_linux_does_not_have(name: bytes) -> None:
    with pytest.raises(MalformedLayer):
        xattr.encode({name: b""})


@pytest.mark.parametrize(
    "xattrs",
    [{b"user." + b"n" * 256: b""}, {b"user.a": bytes(65536)}, {b"user.a": bytes(40000), b"user.b": bytes(40000)}],
    ids=["name", "value", "sum"],
)
def test_limits(xattrs: dict[bytes, bytes]) -> None:
    with pytest.raises(LimitExceeded):
        xattr.encode(xattrs)


def test_limits_are_the_callers() -> None:
    with pytest.raises(LimitExceeded, match="xattr_value is 3"):
        xattr.encode({b"user.a": b"1234"}, replace(DEFAULT, xattr_value=3))


@pytest.mark.parametrize(
    "body",
    [
        bytes(12),
        bytes(4) + b"\1" + bytes(7) + xattr.encode({b"user.a": b"1"})[12:],
        bytes(12) + b"\x02\x01\xff\x00ab" + bytes(2),
        bytes(12) + b"\x01\x05\x00\x00a" + bytes(3),
        bytes(12) + b"\x01\x02\x00\x00a" + bytes(3),
        bytes(12) + b"\x00\x01\x00\x00",
        bytes(12) + b"\x01\x01\x00\x00a\0\0\0" * 2,
    ],
    ids=["no entries", "shared", "beyond the body", "lustre", "acl with a suffix", "no suffix", "twice"],
)
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedLayer):
        xattr.decode(body)
