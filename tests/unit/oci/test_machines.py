"""Platforms as they are written, and which are one machine."""

from __future__ import annotations

import pytest

from imagecache.oci.descriptor import Platform
from imagecache.oci.platform import normalise, parse_platform, same_machine


def parsed(text: str) -> Platform:
    """``os/architecture[/variant]``."""
    system, architecture, variant = (*text.split("/"), "")[:3]
    return normalise(Platform(os=system, architecture=architecture, variant=variant))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/x86_64", "linux/amd64"),
        ("", None),
        ("linux", None),
        ("linux/", None),
        ("linux/arm/v6/x", None),
    ],
)
def test_platforms_as_they_are_written(text: str, found: str | None) -> None:
    platform = parse_platform(text)
    assert (str(platform) if platform else None) == found


def test_a_machine_is_an_os_and_an_architecture() -> None:
    assert same_machine(parsed("linux/arm/v6"), parsed("linux/arm"))
    assert same_machine(parsed("linux/x86_64"), parsed("linux/amd64/v3"))
    assert not same_machine(parsed("linux/arm64"), parsed("linux/arm"))
    assert not same_machine(parsed("linux/amd64"), parsed("windows/amd64"))
