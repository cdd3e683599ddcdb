"""The real parts themselves: they start, do what the other tests take for granted, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError

from testkit.images import busybox_image, tar_of
from testkit.oci_layout import Image, LayerSpec, load
from testkit.peers.containerd import VERSIONS, Containerd, Version
from testkit.peers.cri import Cri
from testkit.peers.processes import mounts_below, processes_of, unmount_below, wait_until
from testkit.peers.programs import MissingPeer, PeerFailed, find, run
from testkit.peers.registry import Registry, Request
from testkit.peers.workspace import sweep, unmount_abandoned

pytestmark = pytest.mark.peers

PULLED_ONCE = {"HEAD manifests": 1, "GET manifests": 1, "GET blobs": 2}


def kinds(requests: list[Request]) -> dict[str, int]:
    """How many requests of each method and kind there were."""
    counted: dict[str, int] = {}
    for request in requests:
        key = f"{request.method} {request.path.split('/')[-2]}"
        counted[key] = counted.get(key, 0) + 1
    return counted


def test_missing_program_says_how_to_get_it() -> None:
    with pytest.raises(MissingPeer, match=r"\./dev peers"):
        find("no-such-program")


def test_a_failed_start_shows_the_log(directory: Path) -> None:
    broken = Containerd(directory / "node", drop_ins=["this is not TOML"])
    with pytest.raises(PeerFailed, match=r"(?i)toml"):
        broken.start()
    broken.close()


@pytest.mark.parametrize("docker", [False, True])
def test_a_real_client_reads_back_what_was_pushed(registry: Registry, directory: Path, docker: bool) -> None:
    kind = "docker" if docker else "oci"
    image = busybox_image(directory / "made", tar_of({"a/b": b"hello"}), docker=docker)
    reference = registry.push(f"peers/{kind}:1", image)
    run([find("skopeo"), "copy", "--src-tls-verify=false", f"docker://{reference}", f"dir:{directory}/read"])
    for blob in (image.config, *image.layers):
        assert (directory / "read" / blob.digest.hex).read_bytes() == image.blob(blob.digest).read_bytes()
    assert (directory / "read/manifest.json").read_bytes() == image.blob(image.descriptor.digest).read_bytes()


def test_the_same_content_makes_the_same_image(directory: Path) -> None:
    first, second = (busybox_image(directory / name, compression="zstd") for name in ("one", "two"))
    assert first.descriptor == second.descriptor
    assert load(directory / "one").descriptor == first.descriptor


def test_layouts_are_read_by_umoci(directory: Path, busybox: Image) -> None:
    listed = run([find("umoci"), "ls", "--layout", busybox.directory])
    assert listed.split() == ["latest"]
    run([find("umoci"), "raw", "unpack", "--image", f"{busybox.directory}:latest", directory / "bundle"])
    assert str((directory / "bundle/bin/sh").readlink()) == "busybox"


def test_users_and_tls(directory: Path, busybox: Image) -> None:
    with Registry(directory / "registry", users={"ann": "secret"}, tls=True) as private:
        reference = private.push("team/app:1", busybox)
        trusting = ["--cert-dir", str(private.certificate.parent), f"docker://{reference}"]
        with pytest.raises(PeerFailed, match="authentication required"):
            run([find("skopeo"), "inspect", *trusting])
        assert busybox.layers[0].digest in run([find("skopeo"), "inspect", "--creds=ann:secret", *trusting])


def test_a_stopped_registry_comes_back_with_its_content(directory: Path, busybox: Image) -> None:
    with Registry(directory / "registry") as own:
        image = f"docker://{own.push('a:1', busybox)}"
        inspect: list[str | Path] = [find("skopeo"), "inspect", "--tls-verify=false", image]
        own.stop()
        with pytest.raises(PeerFailed, match="connection refused"):
            run(inspect)
        own.start()
        assert busybox.layers[0].digest in run(inspect)
        size = busybox.blob(busybox.descriptor.digest).stat().st_size
        assert Request("GET", "/v2/a/manifests/1", 200, size) in own.requests()


async def test_cri_pulls_and_runs(registry: Registry, containerd: Containerd, cri: Cri, directory: Path) -> None:
    image = busybox_image(directory / "image")
    reference = registry.push(f"peers/run-{containerd.major}:1", image)
    registry.clear_requests()
    assert await cri.image_status(reference) is None
    await cri.pull(reference)
    assert kinds(registry.requests()) == PULLED_ONCE
    assert reference in [tag for listed in await cri.images() for tag in listed.repo_tags]
    assert await cri.run(reference, ["/bin/echo", "hello"]) == "hello\n"
    await cri.remove_image(reference)
    assert await cri.image_status(reference) is None


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_cri_pulls_other_compressions(
    registry: Registry, containerd: Containerd, cri: Cri, directory: Path, compression: str
) -> None:
    tar = tar_of({"etc/answer": b"42"})
    layer = LayerSpec(tar, "zstd" if compression == "zstd" else "none")
    reference = registry.push(f"peers/{compression}-{containerd.major}:1", busybox_image(directory / "image", layer))
    await cri.pull(reference)
    assert await cri.run(reference, ["/bin/cat", "/etc/answer"]) == "42"


async def test_cri_pull_needs_the_right_password(directory: Path, pause: str, busybox: Image) -> None:
    with (
        Registry(directory / "private", users={"ann": "secret"}) as private,
        Containerd(directory / "node", sandbox_image=pause) as node,
    ):
        reference = private.push("team/app:1", busybox)
        async with Cri(node.address) as cri:
            with pytest.raises(GRPCError, match=r"401 Unauthorized|authorization failed"):
                await cri.pull(reference)
            await cri.pull(reference, auth=("ann", "secret"))


@pytest.mark.parametrize("version", VERSIONS)
async def test_another_host_name_is_served_by_the_registry(
    registry: Registry, directory: Path, pause: str, busybox: Image, version: Version
) -> None:
    registry.push("library/nginx:1.25", busybox)
    hosts = {"docker.io": registry.url}
    with Containerd(directory / "node", version, sandbox_image=pause, hosts=hosts) as node:
        async with Cri(node.address) as cri:
            await cri.pull("nginx:1.25")
        assert "docker.io/library/nginx:1.25" in node.ctr("-n", "k8s.io", "images", "list", "-q").split()


async def test_containers_outlive_the_daemon(
    registry: Registry, containerd: Containerd, cri: Cri, busybox: Image
) -> None:
    reference = registry.push("peers/outlive:1", busybox)
    await cri.pull(reference)
    async with cri.running(reference) as container:
        await cri.exec_sync(container, ["/bin/touch", "/root/written"])
        containerd.restart()
        async with Cri(containerd.address) as again:
            assert (await again.exec_sync(container, ["/bin/ls", "/root"])).stdout == "written\n"


@pytest.mark.parametrize("version", VERSIONS)
async def test_leaving_ends_containers_shims_and_mounts(
    registry: Registry, directory: Path, pause: str, busybox: Image, version: Version
) -> None:
    reference = registry.push("peers/leave:1", busybox)
    with Containerd(directory / "node", version, sandbox_image=pause) as node:
        async with Cri(node.address) as cri:
            await cri.pull(reference)
            pod = await cri.run_pod("stays")
            await cri.start(await cri.create_container(pod, reference, ["/bin/sleep", "1000000"]))
        assert len(processes_of(directory)) >= 4, "containerd, a shim, pause and sleep"
        assert mounts_below(directory)
        node.kill()
    assert not processes_of(directory)
    assert not mounts_below(directory)


KILLED_RUN = """
import sys, time
from pathlib import Path
from testkit.peers.registry import Registry
from testkit.peers.workspace import workspace
from testkit.images import find
import subprocess
with workspace(Path(sys.argv[1])) as directory:
    with Registry(directory / "registry"):
        (directory / "mount").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory / "mount"], check=True)
        print("up", flush=True)
        time.sleep(1000)
"""


def test_a_killed_run_is_cleaned_by_the_next(directory: Path) -> None:
    argv = [sys.executable, "-c", KILLED_RUN, str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"up\n"
        assert not sweep(directory), "its owner is alive"
        killed.send_signal(signal.SIGKILL)
    (left,) = directory.iterdir()
    assert mounts_below(left)
    assert wait_until(lambda: bool(processes_of(left)), seconds=5)
    assert sweep(directory) == [left]
    assert not processes_of(left)
    assert not mounts_below(left)
    assert not left.exists()


def test_mounts_below_the_directories_of_killed_pytests_go(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name, pid in {"pytest-1": ended.pid, "pytest-2": os.getpid()}.items():
        point = tmp_path / name / "test_x0/mounted"
        point.mkdir(parents=True)
        (tmp_path / name / ".lock").write_text(str(pid))
        run(["mount", "-t", "tmpfs", "none", str(point)])
    try:
        assert unmount_abandoned(tmp_path) == [tmp_path / "pytest-1"]
        assert mounts_below(tmp_path) == [tmp_path / "pytest-2/test_x0/mounted"], "its run is alive"
    finally:
        unmount_below(tmp_path)
