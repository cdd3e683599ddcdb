"""Where addresses are, and how far a request may go."""

from __future__ import annotations

import pytest

from imagecache.registry.address import Place, Reach, place_of


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("1.1.1.1", Place.PUBLIC),
        ("172.15.0.1", Place.PUBLIC),
        ("172.32.0.1", Place.PUBLIC),
        ("2606:4700::1111", Place.PUBLIC),
        ("10.0.0.1", Place.PRIVATE),
        ("172.16.0.1", Place.PRIVATE),
        ("192.168.255.255", Place.PRIVATE),
        ("100.64.0.1", Place.PRIVATE),
        ("198.18.0.1", Place.PRIVATE),
        ("fd00::1", Place.PRIVATE),
        ("fec0::1", Place.PRIVATE),
        ("127.0.0.1", Place.LOOPBACK),
        ("127.255.255.254", Place.LOOPBACK),
        ("::1", Place.LOOPBACK),
        ("0.0.0.0", Place.RESERVED),  # noqa: S104 - the address is the subject
        ("::", Place.RESERVED),
        ("169.254.169.254", Place.RESERVED),
        ("fe80::1", Place.RESERVED),
        ("fe80::1%eth0", Place.RESERVED),
        ("224.0.0.1", Place.RESERVED),
        ("255.255.255.255", Place.RESERVED),
        ("ff02::1", Place.RESERVED),
        # metadata of clouds that is not link-local
        ("100.100.100.200", Place.RESERVED),
        ("168.63.129.16", Place.RESERVED),
        ("192.0.0.192", Place.RESERVED),
        ("fd00:ec2::254", Place.RESERVED),
        ("fd20:ce::254", Place.RESERVED),
        # IPv4 in IPv6
        ("::ffff:127.0.0.1", Place.LOOPBACK),
        ("::ffff:169.254.169.254", Place.RESERVED),
        ("::ffff:1.1.1.1", Place.PUBLIC),
        ("::10.0.0.1", Place.PRIVATE),
        ("64:ff9b::10.0.0.1", Place.PRIVATE),
        ("64:ff9b::169.254.169.254", Place.RESERVED),
        ("64:ff9b:1::1", Place.PRIVATE),
        ("2002:7f00:1::", Place.LOOPBACK),
        ("2001:0:a00:1::", Place.RESERVED),
    ],
)
def test_places(address: str, place: Place) -> None:
    assert place_of(address) is place


_ALL = {Place.PUBLIC, Place.PRIVATE, Place.LOOPBACK, Place.RESERVED}


@pytest.mark.parametrize(
    ("reach", "allowed"),
    [
        (Reach(own=True), {Place.PUBLIC, Place.PRIVATE}),
        (Reach(own=True, listed=True), _ALL),
        (Reach(own=False), {Place.PUBLIC}),
        (Reach(own=False, listed=True), {Place.PUBLIC}),
        (Reach(own=False, registry=Place.PRIVATE), {Place.PUBLIC, Place.PRIVATE}),
        (Reach(own=False, registry=Place.LOOPBACK), {Place.PUBLIC, Place.PRIVATE, Place.LOOPBACK}),
        (Reach(own=False, listed=True, registry=Place.RESERVED), {Place.PUBLIC}),
    ],
)
def test_a_registry_sends_no_further_than_to_where_it_is(reach: Reach, allowed: set[Place]) -> None:
    assert {place for place in Place if reach.allows(place)} == allowed
