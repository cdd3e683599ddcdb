"""What holds for every test: a run leaves no mount and no process behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from testkit.peers.workspace import unmount_abandoned

if TYPE_CHECKING:
    from collections.abc import Iterator

_PYTHON_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return {line.split(" ")[4] for line in lines}


def _children() -> list[str]:
    """Command lines of our living child processes; Python's own helpers end with the interpreter."""
    own = os.getpid()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if entry.name.isdigit() and int(parent) == own and state != "Z" and not any(h in line for h in _PYTHON_HELPERS):
            found.append(f"{entry.name} {line}")
    return found


def pytest_configure() -> None:
    """SIGTERM ends a run as Ctrl-C does, with everything cleaned up; a job in the background ignores SIGINT."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """A test that configures logging (commands do) leaves the next one structlog's defaults, not its closed stream."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compare this run's own before and after; `./dev test` looks at the whole machine at its end."""
    unmount_abandoned(tmp_path_factory.getbasetemp().parent)  # a run that was killed could not
    mounts, children = _mounts(), _children()
    yield
    own = f"{tmp_path_factory.getbasetemp()}/"
    left = {point for point in _mounts() - mounts if point.startswith(own)}
    assert not left, f"mounts left behind: {sorted(left)}"
    assert not set(_children()) - set(children), f"processes left behind: {_children()}"
