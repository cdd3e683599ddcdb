"""The command as a process: exit codes, no tracebacks, signals, completion, a fast start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import MANIFEST

PROGRAM = """
import asyncio, sys
from imagecache.cli.commands import app
from imagecache.cli.session import Environment
from testkit.plain_host import FakeHost
import os
host = FakeHost()
if "PAUSE" in os.environ:
    host.builder.pause = asyncio.Event()
app(obj=Environment(environ=os.environ, open_host=host.open))
"""
REAL = "from imagecache.cli.main import main; main()"


def command(program: str, *args: str) -> list[str]:
    return [sys.executable, "-c", program, *args]


def environment(folder: Path, **more: str) -> dict[str, str]:
    config = folder / "config.toml"
    config.touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IMAGECACHE_", "NO_COLOR"))}
    return {**kept, "IMAGECACHE_STORE": str(folder / "store"), "IMAGECACHE_CONFIG": str(config), **more}


def run(folder: Path, program: str, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(program, *args),
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text(MANIFEST.replace("NAME", "a"))
    return path


BAD = {
    "no-such-file": (["create", "-f", "missing.yaml"], 2, "missing.yaml: No such file or directory"),
    "directory": (["create", "-f", "/"], 2, "/: Is a directory"),
    "binary": (["create", "-f", "binary"], 2, "binary: not UTF-8 text"),
    "malformed": (["create", "-f", "bad.yaml"], 2, "bad.yaml:1: apiVersion: required"),
    "bad-setting": (["get", "--log-level", "loud"], 2, "--log-level: 'loud' is not valid"),
    "bad-config": (["get", "--config", "nothing.toml"], 2, "nothing.toml: no such file"),
    "no-such-cache": (["describe", "nobody"], 3, 'imagecaches.eci.alibabacloud.com "nobody" not found'),
    "name-that-is-none": (["get", "../../etc/passwd"], 3, "not found"),
    "missing-tar": (["layer", "build", "no.tar", "-o", "x"], 2, "no.tar: No such file or directory"),
}


@pytest.mark.parametrize(("args", "code", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_a_short_error_and_its_code(tmp_path: Path, args: list[str], code: int, message: str) -> None:
    (tmp_path / "bad.yaml").write_text("a: 1\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    placed = [str(tmp_path / arg) if (tmp_path / arg).is_file() else arg for arg in args]

    result = run(tmp_path, PROGRAM, *placed)

    assert result.returncode == code
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "\nhint: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "store" / "caches").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = run(tmp_path, PROGRAM, "get", "nobody", IMAGECACHE_DEBUG="1")

    assert "Traceback" in result.stderr
    assert "imagecache.errors.NotFound" in result.stderr


def test_a_bug_is_no_traceback_either(tmp_path: Path) -> None:
    broken = "import imagecache.cli.commands as c\ndef app(): raise KeyError('x')\nc.app = app\n" + REAL

    result = run(tmp_path, broken, "get")

    assert result.returncode == 99
    assert result.stderr == (
        "error: internal error: KeyError: 'x'\nhint: report it with the output that IMAGECACHE_DEBUG=1 adds\n"
    )
    assert "Traceback" in run(tmp_path, broken, "get", IMAGECACHE_DEBUG="1").stderr


def test_version_does_not_wait_for_the_command_line(tmp_path: Path) -> None:
    result = run(tmp_path, f"{REAL}\nimport sys\nprint('typer' in sys.modules, 'asyncio' in sys.modules)", "--version")

    assert result.stdout.splitlines()[0].startswith("imagecache ")
    assert result.stdout.splitlines()[1] == "False False"


def test_get_starts_without_http_grpc_and_mounts(tmp_path: Path) -> None:
    heavy = {
        "aiohttp",
        "grpclib",
        "google.protobuf",
        "imagecache.host.mounter",
        "imagecache.builder.bundle_builder",
    }
    loaded = f"import atexit, sys\natexit.register(lambda: print({heavy!r} & set(sys.modules)))\n"

    assert run(tmp_path, loaded + REAL, "get").stdout == "set()\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_a_create_keeps_what_was_fetched(tmp_path: Path, manifest: Path, number: int) -> None:
    args = ("create", "-f", str(manifest))
    with subprocess.Popen(
        command(PROGRAM, *args),
        env=environment(tmp_path, PAUSE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "imagecache.eci.alibabacloud.com/a created\n"
        assert process.stdout.readline().startswith("nginx:1.25: sha256:")
        process.send_signal(number)
        _out, error = process.communicate(timeout=60)

    assert process.returncode == 130
    assert error == (
        "error: a: stopped; what was fetched is kept\n"
        f"hint: run the same command to resume: imagecache create -f {manifest}\n"
    )
    described = run(tmp_path, PROGRAM, "describe", "a").stdout
    assert "Interrupted:  nothing is lost; run the same create again\n" in described
    before = run(tmp_path, PROGRAM, "get", "a").stdout.split()[-3]
    again = run(tmp_path, PROGRAM, *args)
    assert again.stdout.startswith("imagecache.eci.alibabacloud.com/a resumed\n")
    assert f"ready ({before})" in again.stdout


def test_a_reader_that_goes_away_interrupts_a_create(tmp_path: Path, manifest: Path) -> None:
    with subprocess.Popen(
        command(PROGRAM, "create", "-f", str(manifest)),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""

    assert process.returncode == 1
    described = run(tmp_path, PROGRAM, "describe", "a").stdout
    assert "Interrupted:  nothing is lost; run the same create again\n" in described
    assert "Failed" not in described


@pytest.mark.parametrize("service", ["agent", "snapshotter"])
def test_sigterm_ends_a_service_well(tmp_path: Path, service: str) -> None:
    """It has told the service manager that it is ready, and listens where its settings say."""
    root, address = tmp_path / "root", tmp_path / "snapshotter.sock"
    flags = {"agent": ("--agent-root", "--agent-socket"), "snapshotter": ("--root", "--address")}[service]
    alone = ("--address", str(tmp_path / "no.sock"), "--metrics-address", "") if service == "agent" else ()
    args = (service, flags[0], str(root), flags[1], str(address), "--log-level", "error", *alone)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        with subprocess.Popen(
            command(REAL, *args),
            env=environment(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify")),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert manager.recv(100) == b"READY=1"
            with socket.socket(socket.AF_UNIX) as containerd:
                containerd.connect(str(address))
            assert list(root.iterdir())
            assert (tmp_path / "store/layers").is_dir()
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=60)

    assert (process.returncode, out, error) == (0, "", "")


def test_names_are_completed(tmp_path: Path, manifest: Path) -> None:
    run(tmp_path, PROGRAM, "create", "--no-attach", "-f", str(manifest))
    console = str(Path(sys.executable).parent / "imagecache")
    more = {"_IMAGECACHE_COMPLETE": "complete_bash", "COMP_WORDS": "imagecache get ", "COMP_CWORD": "2"}

    result = subprocess.run(
        [console], env=environment(tmp_path, **more), capture_output=True, text=True, timeout=60, check=False
    )

    assert result.stdout.split() == ["a"]
    (tmp_path / "config.toml").write_text("not toml")
    result = subprocess.run(
        [console], env=environment(tmp_path, **more), capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.stdout.split(), result.stderr) == ([], "")


def test_no_permission_is_said(tmp_path: Path, manifest: Path) -> None:
    """Root without its power over other users' files, on a store that is another user's."""
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    os.chown(store, 65534, 65534)
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]

    result = subprocess.run(
        [*powerless, *command(PROGRAM, "create", "-f", str(manifest))],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 43
    assert "Permission denied" in result.stderr
    assert "hint: run as root, or use a store of your own with --store" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, manifest: Path) -> None:
    """No file may have a single byte: the kernel's answer (EFBIG) is one of those that stand for "full"."""
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"

    result = run(tmp_path, full + PROGRAM, "create", "-f", str(manifest))

    assert result.returncode == 42
    assert "hint: free space on that filesystem, or use another store with --store" in result.stderr
    assert "Traceback" not in result.stderr
    assert list((tmp_path / "store" / "caches").iterdir()) == []
