"""Memory: what cgroups leave, and what workers get of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from imagecache.limits import GIB, MIB
from imagecache.memory import Workers, available, share_out


@pytest.mark.parametrize(
    ("memory", "builds", "jobs", "cores", "expected"),
    [
        (2 * GIB, 2, 0, 16, Workers(1, 768 * MIB)),  # the chart's limit
        (2 * GIB, 1, 0, 16, Workers(2, 768 * MIB)),
        (512 * MIB, 1, 0, 16, Workers(1, 384 * MIB)),  # less than a worker should have: one
        (16 * GIB, 2, 0, 4, Workers(4, 1536 * MIB)),  # not more than cores
        (2 * GIB, 2, 4, 16, Workers(4, 192 * MIB)),  # as it was asked for
        (256 * GIB, 1, 0, 4, Workers(4, 4 * GIB)),  # more is never needed
    ],
)
def test_workers_share_three_quarters(memory: int, builds: int, jobs: int, cores: int, expected: Workers) -> None:
    assert share_out(memory, builds=builds, jobs=jobs, cores=cores) == expected


def cgroups(tmp_path: Path, lines: str, limits: Mapping[str, str] = MappingProxyType({})) -> int:
    """What is available with these files below /sys/fs/cgroup."""
    (tmp_path / "self").write_text(lines)
    for name, text in limits.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return available(tmp_path / "self", tmp_path / "cgroup")


def test_the_least_limit_of_the_cgroups_above_counts(tmp_path: Path) -> None:
    limits = {"memory.max": "max\n", "pod/memory.max": f"{300 * MIB}\n", "pod/container/memory.max": f"{500 * MIB}\n"}
    assert cgroups(tmp_path, "0::/pod/container\n", limits) == 300 * MIB


def test_in_a_container_the_root_is_its_own_cgroup(tmp_path: Path) -> None:
    assert cgroups(tmp_path, "0::/\n", {"memory.max": f"{300 * MIB}\n"}) == 300 * MIB


def test_version_1_of_cgroups(tmp_path: Path) -> None:
    lines = "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n"
    unlimited = f"{(1 << 63) - 4096}\n"
    found = {"memory/memory.limit_in_bytes": unlimited, "memory/docker/abc/memory.limit_in_bytes": f"{300 * MIB}\n"}
    assert cgroups(tmp_path, lines, found) == 300 * MIB
    assert cgroups(tmp_path, lines, {**found, "memory/docker/abc/memory.limit_in_bytes": unlimited}) == machine()


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    assert cgroups(tmp_path, "0::/x\n") == machine()
    assert available(tmp_path / "nothing", tmp_path) == machine()


def machine() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
