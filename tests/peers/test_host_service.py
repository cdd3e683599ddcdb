"""The host service with real parts: its own interpreter on an empty host, socket activation, containers that go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagecache._proto.containerd import snapshots_pb2
from imagecache.containerd.rpc import Connection
from imagecache.errors import InvalidSetting, PrivilegeMissing
from imagecache.host.chroot import in_root
from imagecache.host.probe_id_maps import why_ids_are_not_mapped
from imagecache.host.runtime_files import RuntimeFiles, runtime_files
from imagecache.host.service_files import DIRECTORY
from imagecache.host.systemd_units import SERVICE
from testkit.images import busybox_image, tar_of
from testkit.peers.containerd import VERSIONS, Containerd
from testkit.peers.cri import Cri
from testkit.peers.processes import Daemon, mounts_below, wait_until
from testkit.peers.programs import environment, find, run
from testkit.peers.readiness import listens
from testkit.peers.registry import Registry
from tests.peers.host import Host

pytestmark = pytest.mark.peers
DATA = tar_of({"srv": None, "srv/data": b"from the cache\n"})
READ = ["cat", "/srv/data"]


# the program


@pytest.fixture(scope="session")
def program() -> RuntimeFiles:
    """What this interpreter and its packages make; finding out takes seconds."""
    return runtime_files()


@pytest.fixture
def empty_host(directory: Path, program: RuntimeFiles) -> Path:
    """A root with our program and a shell of no library, and nothing else."""
    root = directory / "root"
    program.write(root / DIRECTORY.relative_to("/") / program.name, DIRECTORY / program.name)
    (root / "bin").mkdir()
    shutil.copy(find("busybox"), root / "bin/sh")
    return root


def on_host(root: Path, program: RuntimeFiles, name: str, *args: str) -> str:
    command = DIRECTORY / program.name / "bin" / name
    return run(["chroot", root, command, *args], env={"PATH": "/usr/sbin:/usr/bin:/bin"})


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


def test_whether_ids_are_mapped_does_not_depend_on_who_asks(directory: Path) -> None:
    """The pod writes the drop-in from below the host's root, where the kernel makes no user namespace."""
    (directory / "proc").mkdir()
    run([find("mount"), "-t", "proc", "proc", directory / "proc"])

    assert in_root(directory, lambda: why_ids_are_not_mapped(Path("/"))) == why_ids_are_not_mapped(directory) == ""


def test_ids_are_mapped_by_a_namespace_that_is_there(directory: Path) -> None:
    """The unit makes one for a service that may make none. What is no namespace is passed over."""
    namespace = directory / "user-namespace"
    assert why_ids_are_not_mapped(directory, namespace) == ""
    namespace.touch()
    assert why_ids_are_not_mapped(directory, namespace) == ""
    for owner, found in ((666, ""), (667, "a mapped file of user 666 belongs to user")):
        with user_namespace(namespace, owner):
            assert why_ids_are_not_mapped(directory, namespace).startswith(found)


@contextlib.contextmanager
def user_namespace(path: Path, owner: int) -> Iterator[None]:
    """One in which root is ``owner``, at a path."""
    words = f"{find('unshare')} --user --map-user={owner} --map-group={owner} sleep 60".split()
    holder = Daemon("namespace", words, path.parent, environment())
    holder.start(lambda: Path(f"/proc/{holder.pid}/uid_map").read_text() != "")
    try:
        run([find("mount"), "--bind", f"/proc/{holder.pid}/ns/user", path])
    finally:
        holder.stop()
    try:
        yield
    finally:
        run([find("umount"), path])


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
        await cri.until_absent(app)  # its layers are not in containerd: kubelet must pull it
        await cri.pull(app)
        async with cri.running(app):
            assert (await host.uninstall()).in_use == left.in_use, "a new container stands on our snapshots"
    left = await host.uninstall()

    assert left.done
    assert host.containerd.config.read_text() == before
    assert (host.manager.agent, host.manager.listener, host.manager.timer) == (None, None, False)
    assert not host.manager.files.at(DIRECTORY).exists()
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
        await cri.until_absent(app)
        await host.install()
    assert not host.manager.timer
    await cri.until_present(app)  # the agent is one again, and attaches
    assert await cri.run(app, READ) == "from the cache\n"
