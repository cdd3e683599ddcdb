"""doctor's lines over a fake containerd, made-up configurations and real directories."""

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from imagecache.containerd.api import Plugin
from imagecache.containerd.modes import Choice
from imagecache.digest import Digest
from imagecache.errors import KernelUnsupported
from imagecache.host import probe_config
from imagecache.host.checks import Status, failed
from imagecache.host.containerd_process import config_argument, listening_at
from imagecache.host.probe import ProbeSettings, check_open_files, check_socket, check_store, diagnose
from imagecache.host.probe_containerd import ContainerdExpectations, check_containerd, check_sandbox
from imagecache.host.probe_kernel import check_native, check_version
from imagecache.host.user_config import UserConfig
from imagecache.oci.descriptor import Descriptor
from imagecache.settings.choices import Mode, MountFrom
from testkit.containerd import FakeSnapshotter, MemoryContainerd

PROXY = Choice(Mode.PROXY, "imagecache", "because")
NATIVE = Choice(Mode.NATIVE, "erofs", "because")
CRI1 = "io.containerd.grpc.v1.cri"
IMAGES = "io.containerd.cri.v1.images"
TRANSFER = "io.containerd.transfer.v1.local"
EROFS = "io.containerd.snapshotter.v1.erofs"
EXPECTED = ContainerdExpectations(
    address=Path("/nonexistent.sock"),
    snapshotter="imagecache",
    mode=Mode.AUTO,
    root=Path("/var/lib/containerd/io.containerd.snapshotter.v1.imagecache"),
    layers=Path("/store/layers"),
)


def with_proxy(version: str = "1.6.20") -> MemoryContainerd:
    containerd = MemoryContainerd(version)
    containerd.snapshotters["imagecache"] = FakeSnapshotter()
    return containerd


@pytest.mark.parametrize(
    ("release", "status", "words"),
    [
        ("6.18.44-fc", Status.OK, "straight from the file"),
        ("6.12.80-generic", Status.OK, "straight from the file"),
        ("6.12.79", Status.WARNING, "may read as zeros"),
        ("6.6.1-generic", Status.WARNING, "loop devices"),
        ("6.1.0-18-amd64", Status.WARNING, "copied once"),
    ],
)
def test_kernel_versions(release: str, status: Status, words: str) -> None:
    check = check_version(release)
    assert (check.status, words in check.detail, bool(check.remedy)) == (status, True, status is not Status.OK)


@pytest.mark.parametrize(
    ("mount_from", "words"), [(MountFrom.FILE, "straight from the file"), (MountFrom.LOOP, "as the setting mount_from")]
)
def test_an_administrator_may_know_better(mount_from: MountFrom, words: str) -> None:
    check = check_version("6.12.40", mount_from)
    assert (check.status, words in check.detail) == (Status.OK, True)


def test_native_mode_on_a_kernel_that_may_read_zeros() -> None:
    check = check_native("6.17.3")
    assert check is not None
    assert (check.status, "proxy mode" in check.remedy) == (Status.PROBLEM, True)
    assert check_native("6.18.21") is None


@pytest.mark.parametrize(
    ("config", "choice", "status"),
    [
        ({CRI1: {"containerd": {"snapshotter": "imagecache"}}}, PROXY, Status.OK),
        ({CRI1: {"containerd": {"snapshotter": "overlayfs"}}}, PROXY, Status.PROBLEM),
        ({IMAGES: {"snapshotter": "erofs"}}, NATIVE, Status.OK),
        ({IMAGES: {"snapshotter": "overlayfs"}}, NATIVE, Status.PROBLEM),
        ({}, PROXY, Status.PROBLEM),
    ],
)
def test_default_snapshotter(config: dict[str, dict[str, object]], choice: Choice, status: Status) -> None:
    assert probe_config.check_default(UserConfig(plugins=config), choice).status is status


def test_unpack_entries() -> None:
    config = UserConfig(plugins={TRANSFER: {"unpack_config": [{"snapshotter": "imagecache"}]}})
    assert probe_config.check_unpack(config, PROXY, "2.0.1") is None
    for choice, status in ((PROXY, Status.OK), (NATIVE, Status.PROBLEM)):
        check = probe_config.check_unpack(config, choice, "2.4.2")
        assert check is not None
        assert check.status is status


def test_layer_caches() -> None:
    config = UserConfig(plugins={EROFS: {"layer_content_caches": ["/store/layers"]}})
    assert probe_config.check_caches(config, PROXY, Path("/store/layers")) is None
    for place, status in (("/store/layers", Status.OK), ("/elsewhere", Status.PROBLEM)):
        check = probe_config.check_caches(config, NATIVE, Path(place))
        assert check is not None
        assert check.status is status


@pytest.mark.parametrize(
    ("version", "exported", "root", "status"),
    [
        ("1.6.20", "", "/c/io.containerd.snapshotter.v1.imagecache", Status.OK),
        ("1.6.20", "/elsewhere", "/elsewhere", Status.WARNING),
        ("2.4.2", "/elsewhere", "/elsewhere", Status.OK),
        ("2.4.2", "", "/elsewhere", Status.WARNING),
    ],
)
def test_where_image_files_are_measured(version: str, exported: str, root: str, status: Status) -> None:
    overlay = {"root": "/c/io.containerd.snapshotter.v1.overlayfs"}
    kind = "io.containerd.snapshotter.v1"
    plugins = (Plugin(kind, "overlayfs", overlay), Plugin(kind, "imagecache", {"root": exported} if exported else {}))
    check = probe_config.check_root(plugins, PROXY, Path(root), version)
    assert check is not None
    assert check.status is status
    assert probe_config.check_root(plugins, NATIVE, Path(root), version) is None


def test_the_pause_images_name() -> None:
    new = UserConfig(plugins={IMAGES: {"pinned_images": {"sandbox": "pause:2"}}})
    assert probe_config.sandbox_image(new) == "pause:2"
    assert probe_config.sandbox_image(UserConfig(plugins={CRI1: {"sandbox_image": "pause:1"}})) == "pause:1"
    assert probe_config.sandbox_image(UserConfig()) == ""


async def pause(containerd: MemoryContainerd, snapshotter: str, *, index: bool) -> None:
    session = containerd.session("k8s.io")
    labels = {f"containerd.io/gc.ref.snapshot.{snapshotter}": "chain"}
    config = await session.content.write(b"{}", labels)
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2}
    body = json.dumps({"schemaVersion": 2, "config": described, "layers": []}).encode()
    target = await session.content.write(body, {})
    if index:
        manifest = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": target, "size": len(body)}
        other = {**manifest, "digest": Digest.sha256(b"other platform")}
        body = json.dumps({"schemaVersion": 2, "manifests": [other, manifest]}).encode()
        target = await session.content.write(body, {})
    await session.images.put("docker.io/library/pause:1", Descriptor(media_type="x", digest=target, size=1), {})


@pytest.mark.parametrize("index", [False, True])
async def test_the_pause_image_must_be_in_our_snapshotter(index: bool) -> None:
    containerd = with_proxy()
    session = containerd.session("k8s.io")
    assert (await check_sandbox(session, "", PROXY)).status is Status.WARNING
    assert "not on this node" in (await check_sandbox(session, "pause:1", PROXY)).detail
    await pause(containerd, "overlayfs", index=index)
    assert "not unpacked in imagecache" in (await check_sandbox(session, "pause:1", PROXY)).detail
    await pause(containerd, "imagecache", index=index)
    assert (await check_sandbox(session, "pause:1", PROXY)).status is Status.OK
    assert (await check_sandbox(session, "PAUSE::", PROXY)).status is Status.PROBLEM


async def test_containerd_that_is_not_there() -> None:
    containerd = with_proxy()
    containerd.running = False
    (check,), mode = await check_containerd(containerd, EXPECTED)
    assert mode is None
    assert (check.name, check.status, check.remedy) == ("connection", Status.PROBLEM, "start containerd")


async def test_containerd_that_is_not_configured() -> None:
    checks, _ = await check_containerd(MemoryContainerd("1.5.0"), EXPECTED)
    assert [(check.name, check.status) for check in checks] == [
        ("connection", Status.OK),
        ("version", Status.PROBLEM),
        ("integration", Status.PROBLEM),
    ]
    assert "containerd-config install" in checks[-1].remedy


async def test_containerd_whose_configuration_is_out_of_sight() -> None:
    checks, mode = await check_containerd(with_proxy(), EXPECTED)
    assert mode is Mode.PROXY
    assert [(check.name, check.status) for check in checks] == [
        ("connection", Status.OK),
        ("integration", Status.OK),
        ("configuration", Status.WARNING),
    ]


@pytest.mark.parametrize(
    ("setting", "status"),
    [
        (("auto",), {"runtime handler kata": Status.OK, "runtime handler two": Status.OK}),
        (("off",), {"runtime handler kata": Status.WARNING, "runtime handler two": Status.WARNING}),
        (("overlayfs",), {"runtime handler kata": Status.WARNING, "runtime handler two": Status.OK}),
        (
            ("auto", "typo"),
            {"runtime handler kata": Status.OK, "runtime handler two": Status.OK, "also_unpack": Status.WARNING},
        ),
    ],
)
async def test_runtime_handlers_with_snapshotters_of_their_own(
    setting: tuple[str, ...], status: dict[str, Status]
) -> None:
    containerd = with_proxy("2.4.2")
    containerd.snapshotters["devmapper"] = FakeSnapshotter()
    containerd.handlers = {"kata": "devmapper", "two": "overlayfs", "ours": "imagecache"}
    checks, _ = await check_containerd(containerd, replace(EXPECTED, also_unpack=setting))
    names = ("runtime handler", "also_unpack")
    assert {check.name: check.status for check in checks if check.name.startswith(names)} == status


async def test_native_mode_needs_a_program_for_what_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    containerd = MemoryContainerd("2.4.2")
    containerd.snapshotters["erofs"] = FakeSnapshotter()
    monkeypatch.setenv("PATH", "/nonexistent")
    checks = {check.name: check for check in (await check_containerd(containerd, EXPECTED))[0]}
    assert checks["mkfs.erofs"].status is Status.PROBLEM
    assert checks["integration"].detail.startswith("native")


def test_the_store(tmp_path: Path) -> None:
    assert next(check.status for check in check_store(tmp_path, ())) is Status.OK
    assert next(check.detail for check in check_store(tmp_path, ("on overlayfs",))) == "on overlayfs"
    apart, _space = check_store(tmp_path, (), tmp_path / "leases")
    assert (apart.status, apart.detail) == (Status.PROBLEM, f"{tmp_path / 'leases'} cannot be written")
    (missing,) = check_store(tmp_path / "none", ())
    assert missing.status is Status.WARNING


def test_the_agents_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert check_socket(path).status is Status.PROBLEM
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert check_socket(path).status is Status.OK
        daemon = listening_at(path)
        assert daemon is not None
        assert Path(f"/proc/{daemon.pid}").samefile("/proc/self")
    assert listening_at(path) is None


@pytest.mark.parametrize(
    ("words", "config"),
    [
        (["containerd"], "/etc/containerd/config.toml"),
        (["containerd", "--config", "/x.toml", "--log-level", "debug"], "/x.toml"),
        (["containerd", "-c", "/x.toml"], "/x.toml"),
        (["containerd", "--log-level=debug", "--config=/x.toml"], "/x.toml"),
    ],
)
def test_the_configuration_file_in_a_command_line(words: list[str], config: str) -> None:
    assert config_argument(words) == Path(config)


def test_open_files() -> None:
    assert check_open_files().name == "open files"


def test_an_error_is_a_line_with_its_hint() -> None:
    check = failed("kernel", "x", KernelUnsupported("no erofs", hint="modprobe erofs"))
    assert (check.status, check.detail, check.remedy) == (Status.PROBLEM, "no erofs", "modprobe erofs")


async def test_everything_together(tmp_path: Path) -> None:
    settings = ProbeSettings(replace(EXPECTED, mode=Mode.PROXY), tmp_path / "store", tmp_path / "agent.sock")
    checks = await diagnose(with_proxy(), settings)
    assert {check.area for check in checks} == {"kernel", "store", "containerd", "agent"}
    assert next(check.detail for check in checks if check.name == "socket").startswith("nothing listens")
    assert all(check.remedy for check in checks if check.status is not Status.OK)
    assert list(await asyncio.to_thread(lambda: list(tmp_path.iterdir()))) == []
