"""Platforms: spellings, and containerd's order of preference."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from imagecache.digest import Digest
from imagecache.errors import NoMatchingPlatform
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Platform
from imagecache.oci.manifest import Index
from imagecache.oci.platform import matches, normalise, runs_on, select, shown
from imagecache.oci.shapes import AnyDescriptor


def parsed(text: str) -> Platform:
    """``os/architecture[/variant]``."""
    system, architecture, variant = (*text.split("/"), "")[:3]
    return normalise(Platform(os=system, architecture=architecture, variant=variant))


def entry(platform: str, *, media_type: str = mediatypes.OCI_MANIFEST) -> AnyDescriptor:
    parts = [*platform.split("/"), "", ""]
    of = Platform(os=parts[0], architecture=parts[1], variant=parts[2]) if platform else None
    digest = Digest.sha256(f"{platform} {media_type}".encode())
    return AnyDescriptor(media_type=media_type, digest=digest, size=2, platform=of)


def choose(entries: Sequence[AnyDescriptor], wanted: Platform) -> AnyDescriptor:
    return select(Index(media_type=mediatypes.OCI_INDEX, manifests=tuple(entries)), wanted)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/x86-64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/9", "linux/arm64/v9"),
        ("linux/arm64/v8.2", "linux/arm64/v8.2"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armv7l", "linux/arm/v7"),
        ("linux/armel/v7", "linux/arm/v6"),
        ("linux/i386/sse2", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("linux/riscv64", "linux/riscv64"),
    ],
)
def test_spellings(written: str, normal: str) -> None:
    assert str(parsed(written)) == normal


def test_an_absent_os_is_linux() -> None:
    assert normalise(Platform(architecture="amd64")).os == "linux"


@pytest.mark.parametrize(
    ("platform", "able"),
    [
        ("linux/amd64", ["amd64", "386"]),
        ("linux/amd64/v3", ["amd64/v3", "amd64/v2", "amd64", "386"]),
        ("linux/amd64/odd", ["amd64/odd", "386"]),
        ("linux/arm/v7", ["arm/v7", "arm/v6", "arm/v5"]),
        ("linux/arm/v5", ["arm/v5"]),
        ("linux/arm64", ["arm64", "arm/v8", "arm/v7", "arm/v6", "arm/v5"]),
        ("linux/arm64/v8.2", ["arm64/v8.2", "arm64/v8.1", "arm64", "arm/v8", "arm/v7", "arm/v6", "arm/v5"]),
        ("linux/arm64/odd", ["arm64/odd"]),
        ("linux/arm64/v8.99", ["arm64/v8.99"]),
        ("linux/s390x", ["s390x"]),
    ],
)
def test_what_a_machine_runs(platform: str, able: list[str]) -> None:
    assert [str(one) for one in runs_on(parsed(platform))] == [f"linux/{one}" for one in able]


def test_arm64_v9_runs_the_v8_that_it_includes() -> None:
    able = [one.variant for one in runs_on(parsed("linux/arm64/v9.1")) if one.architecture == "arm64"]

    assert able == ["v9.1", "v9", "v8.6", "v8.5", "v8.4", "v8.3", "v8.2", "v8.1", ""]


@pytest.mark.parametrize(
    ("wanted", "offered", "best"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/386", "linux/amd64"], 1),
        ("linux/amd64", ["linux/386", "linux/arm64"], 0),
        ("linux/amd64", ["linux/amd64/v2", "linux/amd64"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], 1),
        ("linux/amd64", ["windows/amd64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/amd64", ["", "linux/amd64"], 1),
        ("linux/amd64", ["linux/arm64", ""], 1),
    ],
)
def test_choice(wanted: str, offered: list[str], best: int) -> None:
    entries = [entry(platform) for platform in offered]

    assert choose(entries, parsed(wanted)) is entries[best]


def test_attestations_are_not_chosen() -> None:
    with pytest.raises(NoMatchingPlatform, match="for no platform at all"):
        choose([entry("unknown/unknown")], parsed("linux/amd64"))


def test_the_platform_alone_decides_as_in_containerd() -> None:
    """What the first entry for this platform is shows when it is read."""
    unrelated = entry("linux/amd64", media_type="application/json")

    assert choose([unrelated, entry("linux/amd64")], parsed("linux/amd64")) is unrelated


def test_a_nested_index_can_be_chosen() -> None:
    nested = entry("", media_type=mediatypes.OCI_INDEX)

    assert choose([entry("linux/arm64"), nested], parsed("linux/amd64")) is nested


def test_no_match_lists_what_there_is() -> None:
    offered = [entry("linux/arm64/v8"), entry("linux/s390x"), entry("unknown/unknown")]

    with pytest.raises(NoMatchingPlatform, match=r"for linux/amd64, only for linux/arm64/v8, linux/s390x$"):
        choose(offered, parsed("linux/amd64"))


def test_a_long_list_is_cut() -> None:
    with pytest.raises(NoMatchingPlatform, match="and 5 more"):
        choose([entry(f"linux/cpu{number}") for number in range(25)], parsed("linux/amd64"))


def test_os_features_must_be_there() -> None:
    plain = entry("linux/amd64")
    special = AnyDescriptor(
        media_type=mediatypes.OCI_MANIFEST,
        digest=plain.digest,
        size=2,
        platform=Platform(os="linux", architecture="amd64", os_features=("gpu",)),
    )
    wanted = Platform(os="linux", architecture="amd64", os_features=("gpu", "a"))

    assert choose([special, plain], parsed("linux/amd64")) is plain
    assert choose([plain, special], wanted) is special


def with_features(*features: str) -> Platform:
    return Platform(os="linux", architecture="amd64", os_features=features)


def test_os_features_are_named_where_they_are_the_reason() -> None:
    entries = [AnyDescriptor(platform=with_features("gpu", "a")), AnyDescriptor(platform=with_features("gpu", "a", ""))]

    with pytest.raises(NoMatchingPlatform, match=r"for linux/amd64, only for linux\(\+\+a\+gpu\)/amd64, linux\(\+a"):
        choose(entries, parsed("linux/amd64"))
    with pytest.raises(NoMatchingPlatform, match=r"for linux\(\+b\)/amd64, only for"):
        choose(entries, with_features("b"))


def test_a_long_platform_is_cut_in_messages() -> None:
    assert len(shown(Platform(os="linux", architecture="amd64", os_features=("x" * 5000,)))) < 200


def test_matches() -> None:
    assert matches(parsed("linux/arm64"), Platform(os="linux", architecture="arm", variant="v7"))
    assert not matches(parsed("linux/arm/v6"), Platform(os="linux", architecture="arm", variant="v7"))
