"""Platforms: their spellings, and the choice of one manifest from an index.

The rules are those of containerd's ``platforms`` module (``Normalize`` and ``Only``), so that we cache what the node's
containerd would pull. Windows versions are not matched: images for Windows cannot run on an overlayfs. It must not
detect the machine's platform; ``apps`` does.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from imagecache.errors import NoMatchingPlatform
from imagecache.oci.descriptor import Platform
from imagecache.oci.manifest import Index
from imagecache.oci.shapes import AnyDescriptor
from imagecache.written import printable

# normalizeArch of containerd's platforms module.
_ARCHITECTURES: dict[str, tuple[str, str | None]] = {
    "i386": ("386", ""),
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "aarch64": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv7": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
}
"""Other names of architectures (uname, Debian), and the variant that each implies; None: the given one."""
_VARIANTS = {
    "amd64": {"v1": ""},  # GOAMD64=v1 is every amd64
    "arm64": {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"},
    "arm": {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"},
}
_ARM64_MINORS = {"v8": 9, "v9": 7}
"""Highest known minor version of each arm64 architecture."""
_ARM64_V9_IS = 5
"""v9.n runs everything up to v8.(n+5)."""
_LONGEST = 60
"""Characters of a platform in a message: a registry may call it anything."""
_UNKNOWN = "unknown"
"""BuildKit gives attestation manifests the platform unknown/unknown, which no machine is."""


def normalise(platform: Platform) -> Platform:
    """GOOS, GOARCH and variant in the one spelling that comparisons use; an absent os is ``linux``."""
    system = platform.os.lower() or "linux"
    variant = platform.variant.lower()
    architecture = platform.architecture.lower()
    if architecture in _ARCHITECTURES:
        architecture, implied = _ARCHITECTURES[architecture]
        variant = variant if implied is None else implied
    variant = _VARIANTS.get(architecture, {}).get(variant, variant)
    return msgspec.structs.replace(
        platform,
        os="darwin" if system == "macos" else system,
        architecture=architecture,
        variant=variant,
        os_features=tuple(sorted(platform.os_features)),
    )


def same_machine(one: Platform, other: Platform) -> bool:
    """Whether they are the same os and architecture, whatever the variant: nodes do not report theirs."""
    first, second = normalise(one), normalise(other)
    return (first.os, first.architecture) == (second.os, second.architecture)


def runs_on(platform: Platform) -> tuple[Platform, ...]:
    """The platforms that a machine of this platform can run, best first."""
    wanted = normalise(platform)
    pairs = [(wanted.architecture, wanted.variant)]
    if wanted.architecture == "amd64":
        pairs += [("amd64", version) for version in _below(wanted.variant, lowest=1)]
        pairs += [("386", "")]  # last: containerd prefers any amd64 image
    elif wanted.architecture == "arm":
        pairs += [("arm", version) for version in _below(wanted.variant, lowest=5)]
    elif wanted.architecture == "arm64":
        pairs = _arm64(wanted.variant or "v8")
    return tuple(
        normalise(msgspec.structs.replace(wanted, architecture=architecture, variant=variant))
        for architecture, variant in pairs
    )


def matches(wanted: Platform, offered: Platform) -> bool:
    """Whether a machine of platform ``wanted`` can run an image for ``offered``."""
    return _rank(runs_on(wanted), offered) is not None


def select(index: Index, wanted: Platform) -> AnyDescriptor:
    """The entry of an index that containerd would take on this platform.

    By platform alone, as there: an ``artifactType`` does not matter, and whether the entry is an image shows later. Its
    own config may say another platform. Entries without a platform come last; their config has it, so the caller
    compares that (``matches``). The entry may itself be an index. Raises NoMatchingPlatform, which lists the available
    platforms. Source: containerd ``core/images/handlers.go`` (FilterPlatforms, LimitManifests).
    """
    able = runs_on(wanted)
    last = (len(able), 0)
    ranked = [
        (rank, entry)
        for entry in index.manifests
        if (rank := last if entry.platform is None else _rank(able, entry.platform)) is not None
    ]
    if not ranked:
        raise no_match(wanted, (entry.platform for entry in index.manifests if entry.platform))
    return min(ranked, key=lambda pair: pair[0])[1]  # among equals the first entry, as in containerd


def no_match(wanted: Platform, offered: Iterable[Platform]) -> NoMatchingPlatform:
    """The error that names the wanted platform and the available ones."""
    there = sorted({shown(platform) for platform in offered if _UNKNOWN not in {platform.os, platform.architecture}})
    listed = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
    return NoMatchingPlatform(
        f"the image is not available for {shown(normalise(wanted))}, only for {listed or 'no platform at all'}",
        hint="name an image for this platform, or set the annotation k8s.aliyun.com/imc-cpu-arch",
    )


def shown(platform: Platform) -> str:
    """For messages: with its os.features, as containerd writes them (``platforms``, FormatAll), and of bounded length.

    An ``os.version`` is not in it, since none decides anything here.
    """
    features = "".join(f"+{feature}" for feature in sorted(platform.os_features))
    system = f"{platform.os}({features})" if features else platform.os
    return printable(str(msgspec.structs.replace(platform, os=system)), _LONGEST)


def _rank(able: tuple[Platform, ...], offered: Platform) -> tuple[int, int] | None:
    """A smaller rank is better. Among equal platforms, more of the wanted os.features are better."""
    candidate = normalise(offered)
    for position, platform in enumerate(able):
        same = (platform.os, platform.architecture, platform.variant) == (
            candidate.os,
            candidate.architecture,
            candidate.variant,
        )
        # An image that needs a feature which the machine does not have cannot run; one that needs fewer can.
        if same and set(candidate.os_features) <= set(platform.os_features):
            return position, -len(candidate.os_features)
    return None


def _below(variant: str, lowest: int) -> list[str]:
    """``v3`` with lowest 1: ``v2``, ``v1``."""
    digits = variant.removeprefix("v")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 3):
        return []
    return [f"v{version}" for version in range(int(digits) - 1, lowest - 1, -1)]


def _arm64(variant: str) -> list[tuple[str, str]]:
    major, _, minor_text = variant.partition(".")
    minor = int(minor_text) if minor_text.isascii() and minor_text.isdigit() and len(minor_text) < 3 else 0
    known = major in _ARM64_MINORS and minor <= _ARM64_MINORS[major] and variant in {major, f"{major}.{minor}"}
    if not known:
        return [("arm64", variant)]
    pairs = _minors(major, minor)
    if major == "v9":
        pairs += _minors("v8", min(minor + _ARM64_V9_IS, _ARM64_MINORS["v8"]))
    # arm64 machines run 32-bit ARM too, as containerd assumes; some server cores cannot (AArch64 only).
    return [*pairs, ("arm", "v8"), *(("arm", version) for version in _below("v8", lowest=5))]


def _minors(major: str, highest: int) -> list[tuple[str, str]]:
    return [("arm64", f"{major}.{minor}" if minor else major) for minor in range(highest, -1, -1)]


def parse_platform(text: str) -> Platform | None:
    """``os/architecture[/variant]``, as ``str`` writes it; None for anything else."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        return None
    return normalise(Platform(os=parts[0], architecture=parts[1], variant="".join(parts[2:])))
