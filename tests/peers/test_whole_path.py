"""The whole path as a person walks it: the ``imagecache`` command, the agent as a process, real containerds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from imagecache.errors import ImageNotFound, StoreCorrupt
from testkit.images import busybox_image, make_image, tar_of
from testkit.oci_layout import Image, LayerSpec, Layout
from testkit.peers.agent import COMMAND
from testkit.peers.containerd import Version
from testkit.peers.cri import Cri
from testkit.peers.node import CachingNode, Mode
from testkit.peers.processes import mounts_below, unmount_below, wait_until
from testkit.peers.registry import Registry
from testkit.real_images import debian_image

pytestmark = pytest.mark.peers
VARIANTS: list[tuple[Version, Mode]] = [("system", "proxy"), ("2.4", "proxy"), ("2.4", "native")]
HIDDEN = tar_of({"etc": None, "etc/.wh.group": b"", "srv": None, "srv/data": b"second layer\n"})
"""A layer that hides a file of the layer below."""


@pytest.fixture
def app(directory: Path, registry: Registry) -> str:
    """An image of three layers in a repository of its own; the top one has an implied parent."""
    implied = LayerSpec(tar_of({"tmp/left": b"third layer\n"}), "zstd")
    image = busybox_image(directory / "image", HIDDEN, implied)
    return registry.push(f"{directory.name.lower()}/app:1", image)


@pytest.fixture
def plain_app(directory: Path, registry: Registry) -> str:
    """The same without implied parents: every layer is right everywhere, so native mode serves it too."""
    return registry.push(f"{directory.name.lower()}/plain:1", busybox_image(directory / "plain", HIDDEN))


@pytest.fixture(params=VARIANTS, ids=["-".join(variant) for variant in VARIANTS])
async def node(request: pytest.FixtureRequest, directory: Path, pause: str) -> AsyncIterator[CachingNode]:
    version, mode = request.param
    with CachingNode(directory / "node", version, mode, sandbox_image=pause, trim_delay=0.5) as running:
        async with Cri(running.address) as cri:
            await cri.pull(pause)
        yield running


@pytest.fixture
async def proxy(directory: Path, pause: str) -> AsyncIterator[CachingNode]:
    with CachingNode(directory / "node", sandbox_image=pause, trim_delay=0.5) as running:
        async with Cri(running.address) as cri:
            await cri.pull(pause)
        yield running


@pytest.fixture
def alone(directory: Path) -> CachingNode:
    """The command with a store of its own; no containerd runs."""
    node = CachingNode(directory / "alone", sandbox_image="none")
    node.directory.mkdir(exist_ok=True)
    return node


@pytest.fixture
def registry_off(registry: Registry) -> Iterator[Registry]:
    """For tests that stop the shared registry: it is started again."""
    yield registry
    registry.stop()
    registry.start()


def layer_mounts(node: CachingNode) -> list[Path]:
    return [point for point in mounts_below(node.containerd.root) if "/m/" in str(point)]


READ = ["sh", "-c", "cat /srv/data && ! test -e /etc/group && echo new > /srv/new && cat /srv/new"]


async def test_a_pull_of_cached_layers_fetches_documents_only(
    node: CachingNode, registry: Registry, plain_app: str
) -> None:
    node.create("cache", [plain_app], "--no-attach")
    registry.clear_requests()
    async with Cri(node.address) as cri:
        await cri.pull(plain_app)
        requests = registry.requests()
        assert await cri.run(plain_app, READ) == "second layer\nnew\n"
    kinds = {"manifests" if "/manifests/" in request.path else "blobs" for request in requests}
    blobs = [request for request in requests if "/blobs/" in request.path]
    assert kinds == {"manifests", "blobs"}
    assert len({request.path for request in blobs}) == 1, f"only the config: {blobs}"


async def test_attached_it_runs_with_the_registry_off(
    node: CachingNode, registry_off: Registry, plain_app: str
) -> None:
    node.create("cache", [plain_app])
    registry_off.stop()
    async with Cri(node.address) as cri:
        assert await cri.image_status(plain_app) is not None
        assert await cri.run(plain_app, READ) == "second layer\nnew\n"


async def test_an_image_without_layers(node: CachingNode, registry_off: Registry, directory: Path) -> None:
    """Such as those that carry labels only; it is there, and there is nothing to start."""
    image = registry_off.push(f"{directory.name.lower()}/empty:1", make_image(directory / "empty", []))
    node.create("empty", [image])
    registry_off.stop()
    async with Cri(node.address) as cri:
        assert await cri.image_status(image) is not None
    assert "Ready" in node.command("get", "empty")
    node.command("delete", "empty")


async def test_130_layers(node: CachingNode, registry_off: Registry, directory: Path) -> None:
    """More than fit into one page of mount options, and the same layer in several places."""
    layers = [tar_of({"srv": None, f"srv/{number % 120}": b"here\n"}) for number in range(129)]
    image = registry_off.push(f"{directory.name.lower()}/deep:1", busybox_image(directory / "deep", *layers))
    node.create("deep", [image])
    registry_off.stop()
    async with Cri(node.address) as cri:
        assert await cri.run(image, ["sh", "-c", "cat /srv/0 /srv/119 && echo new >/srv/0"]) == "here\nhere\n"


async def test_a_layer_in_two_places_of_an_image(node: CachingNode, registry_off: Registry, directory: Path) -> None:
    """What the upper place brings back was hidden in between."""
    again = tar_of({"srv": None, "srv/a": b"a\n", "srv/b": b"b\n"})
    between = tar_of({"srv": None, "srv/.wh.a": b"", "srv/b": b"changed\n", "srv/c": b"c\n"})
    image = registry_off.push(
        f"{directory.name.lower()}/again:1", busybox_image(directory / "again", again, between, again)
    )
    node.create("again", [image])
    target = directory / "mnt"
    target.mkdir()
    node.command("mount", image, target)
    try:
        assert {file.name: file.read_text() for file in (target / "srv").iterdir()} == {
            "a": "a\n",
            "b": "b\n",
            "c": "c\n",
        }
    finally:
        node.command("umount", target)
    registry_off.stop()
    async with Cri(node.address) as cri:
        assert await cri.run(image, ["sh", "-c", "cat /srv/a /srv/b /srv/c"]) == "a\nb\nc\n"


async def test_implied_parents_in_proxy_mode(proxy: CachingNode, registry_off: Registry, app: str) -> None:
    proxy.create("cache", [app])
    registry_off.stop()
    async with Cri(proxy.address) as cri:
        assert await cri.run(app, ["sh", "-c", "stat -c %a /tmp && cat /tmp/left"]) == "1777\nthird layer\n"


async def test_the_agent_may_stop_while_containers_run(proxy: CachingNode, app: str) -> None:
    proxy.create("cache", [app])
    async with Cri(proxy.address) as cri, cri.running(app) as container:
        proxy.stop_agent()
        assert (await cri.exec_sync(container, READ)).code == 0
        proxy.start_agent()
        assert (await cri.exec_sync(container, ["cat", "/srv/new"])).stdout == "new\n"
        assert await cri.run(app, READ) == "second layer\nnew\n"


async def test_the_agent_may_be_killed_while_containers_run(proxy: CachingNode, app: str) -> None:
    proxy.create("cache", [app])
    async with Cri(proxy.address) as cri, cri.running(app) as container:
        proxy.agent.kill()
        proxy.start_agent()
        assert (await cri.exec_sync(container, READ)).code == 0
        assert await cri.run(app, READ) == "second layer\nnew\n"


async def test_all_mounts_gone_as_after_a_reboot(proxy: CachingNode, registry_off: Registry, app: str) -> None:
    proxy.create("cache", [app])
    async with Cri(proxy.address) as cri:
        await cri.run(app, READ)
    registry_off.stop()
    proxy.containerd.stop()
    proxy.stop_agent()
    unmount_below(proxy.containerd.root)
    assert not layer_mounts(proxy)
    proxy.start_agent()
    proxy.containerd.start()
    async with Cri(proxy.address) as cri:
        assert await cri.run(app, READ) == "second layer\nnew\n"


async def test_containerd_starts_while_the_agent_is_away(
    proxy: CachingNode, registry_off: Registry, app: str, pause: str
) -> None:
    """CRI leaves out the images whose snapshots it cannot ask for then, and does not look at them again by itself."""
    proxy.create("cache", [app])
    async with Cri(proxy.address) as cri:
        await cri.run(app, READ)
    registry_off.stop()
    proxy.stop_agent()
    proxy.containerd.restart()
    proxy.start_agent()
    async with Cri(proxy.address) as cri:
        for image in (app, pause):  # one after the other
            await cri.until_present(image)
        assert await cri.run(app, READ) == "second layer\nnew\n"


async def test_one_mount_for_all_containers(proxy: CachingNode, app: str) -> None:
    proxy.create("cache", [app])
    async with Cri(proxy.address) as cri, cri.running(app):
        one = layer_mounts(proxy)
        async with cri.running(app), cri.running(app):
            assert layer_mounts(proxy) == one
    assert one


async def test_delete_disturbs_nothing_and_layers_go_with_their_last_container(proxy: CachingNode, app: str) -> None:
    proxy.create("cache", [app])
    async with Cri(proxy.address) as cri:
        async with cri.running(app) as container:
            answer = proxy.command("delete", "cache")
            assert 'imagecache.eci.alibabacloud.com "cache" deleted' in answer
            assert (await cri.exec_sync(container, READ)).code == 0
            assert list(proxy.store.rglob("*.erofs"))
        await cri.until_absent(app)
    assert wait_until(lambda: not list(proxy.store.rglob("*.erofs")), seconds=30, every=0.1)
    assert proxy.command("get", "-o", "name") == ""


async def test_what_is_not_cached_is_an_ordinary_pull(proxy: CachingNode, plain_app: str) -> None:
    async with Cri(proxy.address) as cri:
        await cri.pull(plain_app)
        assert await cri.run(plain_app, READ) == "second layer\nnew\n"
        assert not layer_mounts(proxy)


async def test_detach_and_attach_again(node: CachingNode, plain_app: str) -> None:
    node.create("cache", [plain_app])
    async with Cri(node.address) as cri:
        node.command("detach", "cache")
        await cri.until_absent(plain_app)
        node.command("attach", "cache")
        assert await cri.run(plain_app, READ) == "second layer\nnew\n"


async def test_an_update_serves_the_old_content_until_the_new_is_attached(
    node: CachingNode, registry_off: Registry, plain_app: str, directory: Path
) -> None:
    newer = tar_of({"srv": None, "srv/data": b"newer\n"})
    update = registry_off.push(f"{directory.name.lower()}/plain:2", busybox_image(directory / "newer", newer))
    node.create("cache", [plain_app])
    async with Cri(node.address) as cri:
        missing = node.try_command("apply", "-f", node.manifest("cache", [f"{plain_app}-missing"]))
        assert missing.returncode == ImageNotFound.exit_code
        assert "UpdateFailed" in node.command("get", "cache")
        assert await cri.run(plain_app, READ) == "second layer\nnew\n"
        answer = node.command("apply", "-f", node.manifest("cache", [update]))
        assert "imagecache.eci.alibabacloud.com/cache configured" in answer
        registry_off.stop()
        assert await cri.run(update, ["cat", "/srv/data"]) == "newer\n"
        await cri.until_absent(plain_app)
    assert "Ready" in node.command("get", "cache")
    node.command("delete", "cache")


# one layer at a time, mounts


def test_mount_and_umount(alone: CachingNode, app: str, directory: Path) -> None:
    alone.create("cache", [app], "--no-attach")
    target = directory / "mnt"
    target.mkdir()
    alone.command("mount", app, target)
    try:
        assert (target / "srv/data").read_text() == "second layer\n"
        assert not (target / "etc/group").exists()
        assert (target / "tmp").stat().st_mode & 0o7777 == 0o1777
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").touch()
    finally:
        alone.command("umount", target)
    assert not any(target.iterdir())


def test_one_layer_to_a_file_and_back(alone: CachingNode, directory: Path) -> None:
    layer = debian_image().layers[0]
    packed = debian_image().blob(layer.digest)
    image, tar = directory / "layer.erofs", directory / "layer.tar"
    built = json.loads(alone.command("layer", "build", packed, "-o", image))
    verified = json.loads(alone.command("layer", "verify", image, "--diff-id", built["diffID"]))
    assert verified["digest"] == built["digest"]
    alone.command("layer", "export", image, "-o", tar)
    unpacked = subprocess.run(["gzip", "-dc", packed], capture_output=True, check=True).stdout
    assert tar.read_bytes() == unpacked
    assert "usr/bin/bash" in alone.command("layer", "ls", image)


def test_a_damaged_layer_image_is_found(alone: CachingNode, directory: Path) -> None:
    tar, image = directory / "layer.tar", directory / "layer.erofs"
    tar.write_bytes(HIDDEN)
    alone.command("layer", "build", tar, "-o", image)
    with image.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert alone.try_command("layer", "verify", image).returncode == 41


def test_a_damaged_store_is_found_and_made_whole(alone: CachingNode, app: str) -> None:
    alone.create("cache", [app], "--no-attach")
    assert alone.try_command("check", "--deep").returncode == 0
    damaged = max(alone.store.glob("layers/sha256/*/*.erofs"), key=lambda file: file.stat().st_size)
    with damaged.open("r+b") as file:
        file.seek(damaged.stat().st_size // 2)
        file.write(b"damage")

    assert alone.try_command("check", "--deep", "--quarantine").returncode == StoreCorrupt.exit_code
    alone.command("delete", "cache")
    alone.create("cache", [app], "--no-attach")

    assert alone.try_command("check", "--deep").returncode == 0


# interrupted


def test_ctrl_c_leaves_what_the_next_create_goes_on_from(alone: CachingNode, registry: Registry) -> None:
    reference = registry.push("interrupted/app:1", debian_image())
    manifest = alone.manifest("cache", [reference])
    process = alone.start_command("create", "-f", manifest, "--no-attach", "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if '"downloaded"' in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "same command" in errors
    before = json.loads(alone.command("get", "cache", "-o", "json"))
    answer = alone.command("create", "-f", manifest, "--no-attach")
    after = json.loads(alone.command("get", "cache", "-o", "json"))
    assert "ready" in answer.lower()
    assert after["status"]["phase"] == "Ready"
    assert after["status"]["imageCacheId"] == before["status"]["imageCacheId"]


# bad input: a short error, what to do, the documented exit code, nothing half-done, no traceback


@pytest.fixture
def refused(alone: CachingNode) -> Refused:
    return Refused(alone)


class Refused:
    def __init__(self, node: CachingNode) -> None:
        self.node = node

    def __call__(self, code: int, *words: str, images: list[str], **spec: object) -> str:
        manifest = self.node.manifest("cache", images, **spec)  # type: ignore[arg-type]  # fields of spec
        return self.of(self.node.try_command("create", "-f", manifest, "--no-attach"), code, *words)

    def of(self, done: subprocess.CompletedProcess[str], code: int, *words: str) -> str:
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "error:" in done.stderr
        assert "hint:" in done.stderr or "expected" in done.stderr, "what to do next"
        assert len(done.stderr.splitlines()) <= 12
        assert [word for word in words if word not in done.stderr] == []
        assert not list(self.node.store.rglob("*.erofs"))
        return done.stderr


def test_missing_image(refused: Refused, registry: Registry) -> None:
    refused(14, f"{registry.address}/no/such:1", images=[f"{registry.address}/no/such:1"])


def test_missing_credentials(refused: Refused, guarded: Registry, busybox: Image) -> None:
    reference = guarded.push("team/private:1", busybox)
    refused(12, reference, images=[reference])


def test_wrong_credentials(refused: Refused, guarded: Registry, busybox: Image) -> None:
    reference = guarded.push("team/private:1", busybox)
    refused.node.secret({guarded.address: ("user", "wrong battery")})
    errors = refused(12, reference, images=[reference], imagePullSecrets=["default:secret1"])
    assert "battery" not in errors


def test_missing_secret(refused: Refused, guarded: Registry) -> None:
    refused(3, "default:secret1", images=[f"{guarded.address}/a:1"], imagePullSecrets=["default:secret1"])


def test_unknown_host(refused: Refused) -> None:
    refused(10, "no-such-host.invalid", images=["no-such-host.invalid/app:1"])


def test_wrong_platform(refused: Refused, registry: Registry) -> None:
    image = make_image(refused.node.directory / "image", [tar_of({"a": b"a"})])
    app = registry.push("only/amd64:1", Layout(image.directory).add_index([image], [{"architecture": "amd64"}]))
    refused(2, app, "arm64", images=[app], annotations={"k8s.aliyun.com/imc-cpu-arch": "arm64"})


def test_malformed_manifest(refused: Refused) -> None:
    path = refused.node.directory / "bad.yaml"
    path.write_text("apiVersion: eci.alibabacloud.com/v1\nkind: ImageCache\nmetadata: {name: x}\nspec: {images: 7}\n")
    refused.of(refused.node.try_command("create", "-f", path), 2, "spec.images")


def test_disk_full(directory: Path, pause: str, registry: Registry) -> None:
    reference = registry.push("full/app:1", debian_image())
    small = directory / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", small], check=True)
    try:
        node = CachingNode(directory / "full", sandbox_image=pause, store=small / "store")
        node.directory.mkdir(exist_ok=True)
        Refused(node)(42, images=[reference])
        assert "NoSpace" in node.command("get", "-o", "wide"), "it waits for space: that is no fault of the cache"
    finally:
        subprocess.run(["umount", small], check=True)


def test_no_permission(alone: CachingNode, app: str) -> None:
    alone.directory.parent.chmod(0o755)
    alone.directory.chmod(0o755)
    manifest = alone.manifest("cache", [app])
    alone.store.mkdir(mode=0o700)
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", COMMAND, "create", "-f", manifest],
        env=alone.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    Refused(alone).of(done, 43, str(alone.store))


def test_containerd_not_running(alone: CachingNode, plain_app: str) -> None:
    done = alone.try_command("create", "-f", alone.manifest("cache", [plain_app]))
    assert done.returncode == 63
    assert "Traceback" not in done.stderr
    assert "Ready" in alone.command("get"), "the cache itself is fine: only attach failed"


async def test_everything_stops_cleanly(proxy: CachingNode, app: str) -> None:
    proxy.create("cache", [app])
    proxy.stop_agent()
    await asyncio.to_thread(proxy.start_agent)
    assert "Ready" in proxy.command("get")
