import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagecache.errors import ContainerdMisconfigured
from imagecache.host.dropin import DropInSettings, default_snapshotter, drop_in
from imagecache.host.user_config import UserConfig, read_user_config
from imagecache.settings.choices import Mode
from imagecache.toml import Table

SETTINGS = DropInSettings(
    mode=Mode.PROXY,
    containerd="1.6.20~ds1",
    platform="linux/amd64",
    snapshotter="imagecache",
    socket=Path("/run/imagecache/snapshotter.sock"),
    root=Path("/var/lib/containerd/io.containerd.snapshotter.v1.imagecache"),
    layers=Path("/var/lib/imagecache/layers"),
)
PROXY2 = replace(SETTINGS, containerd="2.4.2")
NATIVE = replace(PROXY2, mode=Mode.NATIVE)
CRI = "io.containerd.grpc.v1.cri"
TRANSFER = "io.containerd.transfer.v1.local"
EROFS = "io.containerd.snapshotter.v1.erofs"
OVERLAY: Table = {"platform": "linux/amd64", "snapshotter": "overlayfs", "differ": "walking"}


def made(settings: DropInSettings, plugins: dict[str, Table] | None = None) -> dict[str, Any]:
    return tomllib.loads(drop_in(settings, UserConfig(2, plugins or {})))


@pytest.mark.parametrize("settings", [SETTINGS, PROXY2])
def test_the_proxy_plugin(settings: DropInSettings) -> None:
    assert made(settings)["proxy_plugins"] == {
        "imagecache": {
            "type": "snapshot",
            "address": "/run/imagecache/snapshotter.sock",
            "exports": {"root": "/var/lib/containerd/io.containerd.snapshotter.v1.imagecache"},
        }
    }


@pytest.mark.parametrize(("settings", "version"), [(SETTINGS, 2), (PROXY2, 3)])
def test_on_its_way_out_the_plugin_alone_is_left(settings: DropInSettings, version: int) -> None:
    document = made(replace(settings, serve_only=True), {CRI: {"containerd": {"snapshotter": "overlayfs"}}})

    assert document == {"version": version, "proxy_plugins": made(settings)["proxy_plugins"]}


@pytest.mark.parametrize(
    ("plugins", "name"),
    [
        ({}, "overlayfs"),
        ({CRI: {"containerd": {"snapshotter": "zfs"}}}, "zfs"),
        ({"io.containerd.cri.v1.images": {"snapshotter": "btrfs"}}, "btrfs"),
    ],
)
def test_what_containers_get_without_us(plugins: dict[str, Table], name: str) -> None:
    assert default_snapshotter(UserConfig(2, plugins)) == name


def test_containerd_1_replaces_sections_so_the_administrators_is_repeated() -> None:
    mine: Table = {"sandbox_image": "my/pause:1", "containerd": {"snapshotter": "overlayfs", "runtimes": {"foo": {}}}}
    document = made(SETTINGS, {CRI: mine, "io.containerd.other": {"x": 1}})
    assert document["version"] == 2
    assert document["plugins"] == {
        CRI: {"sandbox_image": "my/pause:1", "containerd": {"snapshotter": "imagecache", "runtimes": {"foo": {}}}}
    }


def test_containerd_2_gets_version_3_and_an_unpack_entry() -> None:
    document = made(PROXY2)
    assert document["version"] == 3
    assert document["plugins"] == {
        "io.containerd.cri.v1.images": {"snapshotter": "imagecache"},
        TRANSFER: {"unpack_config": [OVERLAY, {**OVERLAY, "snapshotter": "imagecache"}]},
    }


def test_the_administrators_unpack_entries_stay() -> None:
    theirs: list[Table] = [{**OVERLAY, "snapshotter": "zfs"}, {**OVERLAY, "snapshotter": "imagecache", "differ": "x"}]
    unpack = made(PROXY2, {TRANSFER: {"unpack_config": theirs}})["plugins"][TRANSFER]["unpack_config"]
    assert [(entry["snapshotter"], entry["differ"]) for entry in unpack] == [
        ("zfs", "walking"),
        ("imagecache", "walking"),
    ]


def test_native_mode() -> None:
    document = made(NATIVE, {EROFS: {"layer_content_caches": ["/mine", "/var/lib/imagecache/layers"]}})
    assert "proxy_plugins" not in document
    assert document["plugins"] == {
        EROFS: {
            "layer_content_caches": ["/mine", "/var/lib/imagecache/layers"],
            "ovl_mount_options": ["xino=on"],
        },
        "io.containerd.cri.v1.images": {"snapshotter": "erofs"},
        TRANSFER: {"max_concurrent_unpacks": 3, "unpack_config": [OVERLAY, {**OVERLAY, "snapshotter": "erofs"}]},
    }


@pytest.mark.parametrize(
    ("stable", "theirs", "options"),
    [
        (True, ["volatile"], ["volatile", "xino=on"]),
        (True, ["xino=off"], None),
        (False, ["volatile"], ["volatile", "xino=off"]),
        (False, ["xino=auto"], None),
    ],
)
def test_native_mode_and_inode_numbers(*, stable: bool, theirs: list[str], options: list[str] | None) -> None:
    """Without a list of ours the administrator's is in force."""
    user: dict[str, Table] = {EROFS: {"ovl_mount_options": theirs}}
    assert made(replace(NATIVE, stable_inodes=stable), user)["plugins"][EROFS].get("ovl_mount_options") == options


@pytest.mark.parametrize("option", ["enable_fsverity", "set_immutable"])
def test_native_mode_refuses_what_excludes_layer_caches(option: str) -> None:
    with pytest.raises(ContainerdMisconfigured, match=option):
        made(NATIVE, {EROFS: {option: True}})


def test_native_mode_needs_containerd_2_4() -> None:
    with pytest.raises(ContainerdMisconfigured, match=r"2\.4 or later, this is 2\.3\.4"):
        made(replace(NATIVE, containerd="2.3.4"))


@pytest.mark.parametrize("settings", [SETTINGS, PROXY2, NATIVE])
def test_rebase_and_annotations_are_left_alone(settings: DropInSettings) -> None:
    text = drop_in(settings, UserConfig())
    assert "rebase" not in text
    assert "annotations" not in text


@pytest.mark.parametrize(("major", "sandbox"), [(1, None), (2, "mine")])
def test_imports_merge_as_this_containerd_merges_them(tmp_path: Path, major: int, sandbox: str | None) -> None:
    main, ours = tmp_path / "config.toml", tmp_path / "imagecache.toml"
    main.write_text(
        f'version = 2\nimports = ["d/*.toml", "{ours}", "gone.toml"]\n[plugins.cri]\nsandbox = "mine"\nlist = [1]\n'
    )
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.toml").write_text('version = 2\nimports = ["../config.toml"]\n[plugins.cri]\nlist = [2]\n')
    ours.write_text("version = 2\n[plugins.cri]\nours = true\n")
    user = read_user_config(main, ours=[ours], major=major)
    assert user.version == 2
    assert user.section("cri").get("sandbox") == sandbox
    assert user.section("cri")["list"] == [2]
    assert "ours" not in user.section("cri")


def test_sections_that_are_not_there_are_empty(tmp_path: Path) -> None:
    user = read_user_config(tmp_path / "config.toml", ours=[tmp_path / "imagecache.toml"], major=2)
    assert user == UserConfig()
    assert user.section("cri", "containerd") == {}
    assert UserConfig(2, {"cri": {"containerd": 7}}).section("cri", "containerd", "x") == {}


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text("version = \n")
    with pytest.raises(ContainerdMisconfigured, match=r"config\.toml"):
        read_user_config(main, ours=[tmp_path / "x"], major=2)


@pytest.mark.parametrize(
    ("version", "possible", "maps"),
    [
        ("1.6.20~ds1", True, False),
        ("1.7.27", True, False),
        ("2.0.13", True, False),
        ("2.2.0", True, False),
        ("2.3.0", True, True),
        ("v2.4.2", True, True),
        ("v2.4.2", False, False),
    ],
)
def test_ids_are_mapped_only_where_the_mounts_below_are_cloned(version: str, possible: bool, maps: bool) -> None:
    plugin = made(replace(SETTINGS, containerd=version, maps_ids=possible))["proxy_plugins"]["imagecache"]

    assert plugin.get("capabilities", []) == (["remap-ids"] if maps else [])
