"""The host service with real parts: its own interpreter on an empty host, socket activation, containers that go on."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from imagecache._proto.containerd import snapshots_pb2
from imagecache.apps.host_service import HostContainerdFiles, HostContainerdRecords
from imagecache.clock import SystemClock
from imagecache.containerd.rpc import Connection
from imagecache.errors import InvalidSetting, PrivilegeMissing
from imagecache.host.chroot import in_root
from imagecache.host.runtime_files import RuntimeFiles, runtime_files
from imagecache.host.service import HostService, HostSettings, Uninstalled
from imagecache.host.service_files import CONFIG, OPT, PROGRAM, UNITS, HostFiles
from imagecache.host.systemd_units import SERVICE, SOCKET, TIMER
from imagecache.settings.dump import config_text
from imagecache.settings.table import Mode, Settings
from imagecache.snapshotter.grpc_server import listen
from testkit.host_service import FakeProgram
from testkit.images import busybox_image, tar_of
from testkit.peers.agent import COMMAND
from testkit.peers.containerd import VERSIONS, Containerd
from testkit.peers.cri import Cri
from testkit.peers.processes import Daemon, mounts_below, wait_until
from testkit.peers.programs import environment, find, run
from testkit.peers.readiness import Notifications, listens
from testkit.peers.registry import Registry

pytestmark = pytest.mark.peers
DATA = tar_of({"srv": None, "srv/data": b"from the cache\n"})
READ = ["cat", "/srv/data"]
_ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


# the program


@pytest.fixture(scope="session")
def program() -> RuntimeFiles:
    """What this interpreter and its packages make; finding out takes seconds."""
    return runtime_files()


@pytest.fixture
def empty_host(directory: Path, program: RuntimeFiles) -> Path:
    """A root with our program and a shell of no library, and nothing else."""
    root = directory / "root"
    program.write(root / OPT.relative_to("/") / program.name, OPT / program.name)
    (root / "bin").mkdir()
    shutil.copy(find("busybox"), root / "bin/sh")
    return root


def on_host(root: Path, program: RuntimeFiles, name: str, *args: str) -> str:
    return run(["chroot", root, OPT / program.name / "bin" / name, *args], env={"PATH": "/usr/sbin:/usr/bin:/bin"})


def test_the_program_runs_on_a_host_that_has_nothing(empty_host: Path, program: RuntimeFiles) -> None:
    assert re.fullmatch(r"imagecache \S+\n", on_host(empty_host, program, "imagecache", "--version"))
    assert "Usage: imagecache agent" in on_host(empty_host, program, "imagecache", "agent", "--help")


def test_every_module_of_ours_is_there_and_finds_what_it_needs(empty_host: Path, program: RuntimeFiles) -> None:
    code = """
import importlib, pkgutil, sys, imagecache
names = [m.name for m in pkgutil.walk_packages(imagecache.__path__, "imagecache.")]
for name in names:
    importlib.import_module(name)
files = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
foreign = {file for file in files if not file.startswith(sys.prefix)}
print(len(names), sys.executable == sys.prefix + "/bin/python3", sorted(foreign))
"""
    (empty_host / "proc").mkdir()
    run([find("mount"), "-t", "proc", "proc", empty_host / "proc"])
    count, own, foreign = on_host(empty_host, program, "python3", "-I", "-c", code).split(maxsplit=2)

    assert int(count) > 150
    assert (own, foreign.strip()) == ("True", "[]"), (
        "its workers would run with another interpreter, or other libraries"
    )


def test_what_is_compiled_here_is_not_compiled_again_there(empty_host: Path, program: RuntimeFiles) -> None:
    code = """
from importlib._bootstrap_external import SourceLoader
compile_it, compiled = SourceLoader.source_to_code, []
def note(self, data, path, **more):
    compiled.append(path)
    return compile_it(self, data, path, **more)
SourceLoader.source_to_code = note
import argparse, json  # the interpreter itself loads neither
print(compiled)
"""
    assert on_host(empty_host, program, "python3", "-I", "-c", code) == "[]\n"


def test_another_content_has_another_name(program: RuntimeFiles) -> None:
    changed = replace(program, files=dict(program.files))

    assert changed.name == program.name == runtime_files().name


# socket activation


async def test_the_agent_answers_through_a_socket_that_systemd_holds(directory: Path, program: RuntimeFiles) -> None:
    place = directory / "program"
    program.write(place, place)
    listening = directory / "agent.sock"
    env = {
        **environment(),
        "IMAGECACHE_STORE": str(directory / "store"),
        "IMAGECACHE_ADDRESS": str(directory / "containerd.sock"),
        "IMAGECACHE_AGENT_ROOT": str(directory / "state"),
        "IMAGECACHE_METRICS_ADDRESS": "",
        "IMAGECACHE_CONFIG": str(directory / "config.toml"),
        "IMAGECACHE_MODE": "proxy",
    }
    (directory / "config.toml").touch()
    variables = [f"--setenv={name}" for name in env if name.startswith("IMAGECACHE_")]
    words: list[str | Path] = [
        "systemd-socket-activate",
        f"--listen={listening}",
        *variables,
        place / "bin/imagecache",
        "agent",
    ]
    with Daemon("activated", words, directory, env) as daemon:
        daemon.start(lambda: listens(listening))
        assert not (directory / "state").exists(), "it starts with the first caller"
        connection = Connection(listening, deadline=30)
        request = snapshots_pb2.StatSnapshotRequest(snapshotter="imagecache", key="none")
        with pytest.raises(Exception, match="none") as caught:
            await connection.call(
                "containerd.services.snapshots.v1.Snapshots/Stat", request, snapshots_pb2.StatSnapshotResponse
            )
        connection.close()
    assert type(caught.value).__name__ == "NotFound"


# inside the host's files


def test_work_is_done_where_the_hosts_own_links_are_right(directory: Path) -> None:
    (directory / "real").mkdir()
    (directory / "real/file").write_text("the host's")
    (directory / "link").symlink_to("/real")

    assert in_root(directory, lambda: Path("/link/file").read_text()) == "the host's"
    assert in_root(Path("/"), os.getpid) == os.getpid()


def test_an_error_of_the_work_comes_back_whole(directory: Path) -> None:
    def work() -> None:
        raise InvalidSetting("no", hint="because")

    with pytest.raises(InvalidSetting, match="no") as caught:
        in_root(directory, work)
    assert caught.value.hint == "because"
    with pytest.raises(PrivilegeMissing):
        in_root(directory, lambda: in_root_as_nobody(directory))


def in_root_as_nobody(directory: Path) -> None:
    os.setuid(65534)
    in_root(directory, lambda: None)


# containerd


@dataclass
class Manager:
    """A service manager that runs the units' programs as systemd does, for the two units that matter."""

    files: HostFiles
    containerd: Containerd
    directory: Path
    settings: Settings
    listener: socket.socket | None = None
    agent: Daemon | None = None
    timer: bool = False
    calls: list[str] = field(default_factory=list)

    def running(self) -> bool:
        return True

    def reload(self) -> None:
        self.calls.append("reload")

    def start(self, unit: str) -> None:
        if unit == SOCKET and self.listener is None:
            self.listener = listen(self.settings.agent_socket)
        elif unit == TIMER:
            self.timer = True
        elif unit == SERVICE and self.agent is None:
            self.restart(unit)

    def restart(self, unit: str) -> None:
        self.calls.append(f"restart {unit}")
        if unit == SERVICE:
            self._run_agent()
        else:
            with ThreadPoolExecutor(1) as thread:  # it asks in an event loop of its own
                thread.submit(self.containerd.restart).result()

    def stop(self, unit: str) -> None:
        if unit == TIMER:
            self.timer = False
        elif unit == SERVICE and self.agent is not None:
            self.agent.stop()
            self.agent = None
        elif unit == SOCKET and self.listener is not None:
            self.listener.close()
            self.listener = None
            self.settings.agent_socket.unlink()

    def _run_agent(self) -> None:
        """ExecStart of the unit, until it notifies that it is ready."""
        if self.agent is not None:
            self.agent.stop()
        assert self.listener is not None
        text = self.files.at(UNITS / SERVICE).read_text()
        (command,) = re.findall(rf"^ExecStart={re.escape(str(PROGRAM))} (\w+)$", text, re.MULTILINE)
        with Notifications(self.directory / "notify.sock") as notifications:
            env = {
                **environment(),
                "NOTIFY_SOCKET": str(notifications.path),
                "IMAGECACHE_CONFIG": str(self.files.at(CONFIG)),
            }
            fd = self.listener.fileno()
            python = str(COMMAND.parent / "python")
            argv = [python, "-c", _ACTIVATED, str(fd), COMMAND, command, f"--store={self.settings.store}"]
            self.agent = Daemon("agent", argv, self.directory, env, pass_fds=[fd])
            self.agent.start(notifications.ready)


@dataclass
class Host:
    """One containerd, and the host service beside it."""

    directory: Path
    containerd: Containerd
    settings: Settings = field(init=False)
    manager: Manager = field(init=False)

    def __post_init__(self) -> None:
        self.settings = Settings(
            store=self.directory / "store",
            address=self.containerd.address,
            mode=Mode.PROXY,
            agent_socket=self.directory / "agent.sock",
            agent_root=self.containerd.root / "io.containerd.snapshotter.v1.imagecache",
            containerd_config=self.containerd.config,
            hosts=self.containerd.directory / "certs.d",
            metrics_address="",
        )
        files = HostFiles(self.directory / "root")
        link = files.at(self.settings.address)
        link.parent.mkdir(parents=True)
        link.symlink_to(self.settings.address)
        files.at(UNITS).mkdir(parents=True)
        self.manager = Manager(files, self.containerd, self.directory, self.settings)

    def service(self) -> HostService:
        drop_in = HostContainerdFiles(self.settings, SystemClock(), Path("/"))
        settings = HostSettings(Mode.PROXY, config_text(self.settings), self.settings.address)
        records = HostContainerdRecords(drop_in)
        return HostService(self.manager.files, self.manager, (drop_in, records), settings, FakeProgram)

    async def install(self) -> None:
        await asyncio.to_thread(self.service().install)

    async def uninstall(self) -> Uninstalled:
        return await asyncio.to_thread(self.service().uninstall)

    def cache(self, *images: str) -> None:
        """Build an ImageCache of these images here, and attach it."""
        manifest = {"apiVersion": "eci.alibabacloud.com/v1", "kind": "ImageCache", "metadata": {"name": "c"}}
        path = self.directory / "cache.json"
        path.write_text(str(manifest | {"spec": {"images": list(images)}}).replace("'", '"'))
        env = {**environment(), "IMAGECACHE_CONFIG": str(self.manager.files.at(CONFIG))}
        subprocess.run([COMMAND, "create", "-f", path], env=env, check=True, capture_output=True, timeout=120)

    def close(self) -> None:
        self.containerd.close()
        for unit in (SERVICE, SOCKET):
            self.manager.stop(unit)


@pytest.fixture(params=VERSIONS)
def host(request: pytest.FixtureRequest, directory: Path, pause: str) -> Iterator[Host]:
    containerd = Containerd(directory / "containerd", request.param, sandbox_image=pause)
    made = Host(directory, containerd)
    containerd.start()
    yield made
    made.close()


@pytest.fixture
async def cri(host: Host, pause: str) -> AsyncIterator[Cri]:
    """Connected anew by every call that finds containerd restarted."""
    async with Cri(host.containerd.address) as client:
        await client.pull(pause)
        yield client


@pytest.fixture
def app(directory: Path, registry: Registry) -> str:
    return registry.push(f"{directory.name.lower()}/app:1", busybox_image(directory / "image", DATA))


async def test_it_comes_and_goes_and_containers_do_not_notice(
    host: Host, cri: Cri, app: str, registry: Registry
) -> None:
    before = host.containerd.config.read_text()
    await host.install()
    assert host.manager.calls == ["reload", f"restart {SERVICE}", "restart containerd.service"]
    host.cache(app)
    registry.clear_requests()
    async with cri.running(app) as container:
        assert registry.requests() == [], "from the cache, without a pull"
        await host.install()
        assert host.manager.calls[3:] == ["reload"], "nothing changed, nothing is restarted"

        left = await host.uninstall()

        assert not left.done
        assert left.in_use >= 1
        assert f"k8s.io/{app}" in left.forgotten
        assert host.manager.timer
        assert (await cri.exec_sync(container, READ)).stdout == "from the cache\n"
        assert await cri.image_status(app) is None, "its layers are not in containerd: kubelet must pull it"
        await cri.pull(app)
        async with cri.running(app):
            assert (await host.uninstall()).in_use == left.in_use, "a new container stands on our snapshots"
    left = await host.uninstall()

    assert left.done
    assert host.containerd.config.read_text() == before
    assert (host.manager.agent, host.manager.listener, host.manager.timer) == (None, None, False)
    assert not host.manager.files.at(OPT).exists()
    assert wait_until(lambda: not mounts_below(host.settings.agent_root), seconds=10)
    await asyncio.to_thread(host.containerd.restart)
    assert await cri.run(app, READ) == "from the cache\n"


async def test_an_image_that_was_pulled_whole_stays(host: Host, cri: Cri, app: str) -> None:
    await host.install()
    await cri.pull(app)
    assert await cri.run(app, READ) == "from the cache\n"

    left = await host.uninstall()

    assert left.done
    assert left.forgotten == ()
    assert await cri.run(app, READ) == "from the cache\n", "unpacked again, from the content that was pulled"


async def test_a_departure_is_taken_back(host: Host, cri: Cri, app: str) -> None:
    await host.install()
    host.cache(app)
    async with cri.running(app):
        await host.uninstall()
        assert await cri.image_status(app) is None
        await host.install()
    assert not host.manager.timer
    await until_present(cri, app)  # the agent is one again, and attaches
    assert await cri.run(app, READ) == "from the cache\n"


async def until_present(cri: Cri, image: str) -> None:
    deadline = asyncio.get_running_loop().time() + 30
    while await cri.image_status(image) is None:
        assert asyncio.get_running_loop().time() < deadline, "the image does not come back"
        await asyncio.sleep(0.05)
