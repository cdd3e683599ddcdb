"""What our container image is made from: things that are named by what they contain, and what it must have."""

from __future__ import annotations

import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
CONTAINERFILE = ROOT / "packaging" / "Containerfile"
REQUIREMENTS = ROOT / "requirements"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
PIN = re.compile(
    r"^([a-z0-9-]+)==(\S+)(?: ; [^\\\n]+)? \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)
BUILD = "/src/requirements/build.lock"
RUNTIME = "/src/requirements/runtime.lock"


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments, without comments, each on one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(name.upper(), arguments.strip()) for name, _, arguments in pairs]


def moving(text: str) -> list[str]:
    """Images that may be others tomorrow, in FROM, in ``--from`` and in ``--mount``.

    An argument may only be the digest itself: then none that somebody gives makes a tag of it.
    """
    found, defaults, stages = [], dict[str, str](), set[str]()
    for name, arguments in instructions(text):
        if name == "ARG":
            argument, _, default = arguments.partition("=")
            defaults[argument] = default
        words = arguments.split()
        images = re.findall(r"\bfrom=([^\s,]+)", arguments)
        if name == "FROM":
            image, *alias = [word for word in words if not word.startswith("--")]
            images = [image]
        for each in images:
            _, _, digest = each.partition("@")
            variable = re.fullmatch(r"\$\{(\w+)\}", digest)
            if each not in stages and not DIGEST.fullmatch(defaults.get(variable[1], "") if variable else digest):
                found.append(each)
        if name == "FROM" and len(alias) == 2:
            stages.add(alias[1])
    return found


def pip_calls(text: str) -> list[list[str]]:
    """Of what puts packages somewhere."""
    commands = [
        shlex.split(command)
        for name, arguments in instructions(text)
        if name == "RUN"
        for command in re.split(r"&&|\|\||;|\|", arguments)
    ]
    return [
        words[words.index(verb) :]
        for words in commands
        for verb in ("install", "wheel", "download")
        if verb in words and not re.search(r"\bapt(-get)?$", words[0])
    ]


def unheld(text: str) -> list[str]:
    """Calls that may take something from an index that no hash of a lock holds."""
    return [" ".join(words) for words in pip_calls(text) if not (from_a_lock(words) or "--no-index" in words)]


def from_a_lock(words: list[str]) -> bool:
    """All of it, and wheels alone: for a source distribution pip fetches a build back end, without any hashes."""
    after = dict(pairwise(words))
    named = after.get("--requirement") in {BUILD, RUNTIME}
    return named and "--require-hashes" in words and after.get("--only-binary") == ":all:"


def locked(name: str) -> dict[str, str]:
    """Versions by package."""
    text = (REQUIREMENTS / name).read_text()
    assert len(PIN.findall(text)) == len(re.findall(r"^\S+==", text, re.MULTILINE)), f"{name}: a pin without a hash"
    return {package: version for package, version, _ in PIN.findall(text)}


def test_the_controller_can_tell_who_signs_public_registries() -> None:
    """Debian's slim image has no authorities, and Python brings none. Those of the build stage stay there."""
    final = CONTAINERFILE.read_text().rpartition("\nFROM ")[2]

    assert "ca-certificates" in final


def test_the_base_is_what_its_digest_says() -> None:
    text = CONTAINERFILE.read_text()

    assert [name for name, _ in instructions(text)].count("FROM") == 2
    assert moving(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "FROM debian:13-slim",
        "FROM --platform=linux/amd64 debian:13-slim AS build",
        "ARG BASE=debian:13-slim\nFROM $BASE",
        f"ARG BASE=debian@sha256:{64 * 'a'}\nFROM ${{BASE}}",
        "ARG DIGEST\nFROM debian@${DIGEST}",
        f"FROM debian@sha256:{64 * 'a'}\nCOPY --from=debian:13-slim /a /a",
        f"FROM debian@sha256:{64 * 'a'}\nRUN --mount=type=bind,from=debian,target=/a true",
    ],
)
def test_a_base_that_may_move(text: str) -> None:
    assert len(moving(text)) == 1


def test_nothing_of_an_index_is_installed_without_a_hash() -> None:
    text = CONTAINERFILE.read_text()

    assert len(pip_calls(text)) == 4
    assert unheld(text) == []


@pytest.mark.parametrize(
    "command",
    [
        "pip install hatchling==1.33.0",
        f"pip install --requirement {BUILD} --only-binary :all:",
        f"pip install --require-hashes --requirement {BUILD}",
        "pip install --require-hashes --only-binary :all: --requirement /src/other.lock",
        "pip wheel --no-deps --no-build-isolation /src",
        "/opt/x/bin/python -m pip install imagecache",
        "uv pip install imagecache",
        "true && pip download x",
    ],
)
def test_a_command_that_no_hash_holds(command: str) -> None:
    assert len(unheld(f"RUN {command}")) == 1


def test_the_build_back_end_is_that_of_the_lock() -> None:
    """The lock has all of it, and the version that tests and ``./dev setup`` have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = project["build-system"]["requires"]
    pins = locked("build.lock")

    assert needed == project["dependency-groups"]["build"]
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(pins[requirement.name])
    assert pins.items() <= locked("dev.lock").items()


@pytest.mark.parametrize("name", ["runtime.lock", "sbom.lock"])
def test_every_pin_of_a_lock_has_hashes(name: str) -> None:
    assert len(locked(name)) > 30
