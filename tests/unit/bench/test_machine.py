"""Facts are read from what is there; read-ahead comes back, also after a run that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import machine
from bench.machine import Disk, go_modules, read_ahead, restore, source, version
from imagecache.host.mountinfo import Mount
from testkit.peers.programs import PeerFailed, checkout

_MOUNT = Mount("/somewhere", "ext4", "/dev/vdx", "rw", "rw,discard")
_GO_MOD = """\
module example.test/peers

go 1.26.1

tool (
	example.com/big/cmd/one
	example.com/big/v2/cmd/two
)

tool other.org/three

require (
	example.com/big v1.2.3
	example.com/big/v2 v2.0.1 // indirect
	unused.org/four v0.1.0 // indirect
)

require other.org/three v0.9.0
"""


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """With a file of its own where sysfs would be."""
    queue = tmp_path / "vdx" / "queue"
    queue.mkdir(parents=True)
    (queue / "read_ahead_kb").write_text("8192\n")
    return Disk(_MOUNT, 0, queue)


def test_the_facts_of_this_machine_can_be_written(tmp_path: Path) -> None:
    found = machine.facts(tmp_path, {"no": ("no-such-program", "--version")})

    assert json.loads(json.dumps(found)) == found
    assert found["processors"] == len(os.sched_getaffinity(0))
    programs = found["programs"]
    assert isinstance(programs, dict)
    assert programs["no"] is None


def test_a_directory_has_the_mount_that_it_is_on() -> None:
    assert Disk.of(Path("/proc/self")).mount.kind == "proc"
    assert Disk.of(Path("/proc/self")).read_ahead_kib is None


def test_a_version_is_the_first_line(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho >&2\necho 'program 1.2' >&2\nexit 1\n")
    program.chmod(0o755)

    assert version([str(program), "--version"]) == "program 1.2"


def test_the_source_is_a_commit_or_nothing(tmp_path: Path) -> None:
    assert source(tmp_path) == {"commit": None, "dirty": None}
    if (checkout() / ".git").exists():
        assert len(str(source(checkout())["commit"])) == 40


def test_a_go_mod_names_the_modules_of_its_tools(tmp_path: Path) -> None:
    file = tmp_path / "go.mod"
    file.write_text(_GO_MOD)

    assert go_modules(file) == {
        "go": "1.26.1",
        "example.com/big": "v1.2.3",
        "example.com/big/v2": "v2.0.1",
        "other.org/three": "v0.9.0",
    }


def test_read_ahead_is_set_and_restored(disk: Disk, tmp_path: Path) -> None:
    with read_ahead(disk, 128, tmp_path):
        assert disk.read_ahead_kib == 128
        with pytest.raises(PeerFailed, match="another run"), read_ahead(disk, 256, tmp_path):
            pass
        assert disk.read_ahead_kib == 128

    assert disk.read_ahead_kib == 8192
    assert not list(tmp_path.glob("imagecache-*"))


def test_a_disk_without_a_device_has_no_read_ahead(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match="no block device"), read_ahead(Disk(_MOUNT, 0, None), 128, tmp_path):
        pass


def test_what_a_killed_run_has_set_is_restored(disk: Disk, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from bench.machine import Disk, read_ahead;"
        "from imagecache.host.mountinfo import Mount; notes = Path(sys.argv[1]);"
        "disk = Disk(Mount('/', 'ext4', '', '', ''), 0, notes / 'vdx' / 'queue');"
        "held = read_ahead(disk, 128, notes); held.__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    argv = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(argv, cwd=checkout(), check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert disk.read_ahead_kib == 128

    assert disk.queue is not None
    assert restore(tmp_path) == [disk.queue / "read_ahead_kb"]
    assert disk.read_ahead_kib == 8192
    assert restore(tmp_path) == []
