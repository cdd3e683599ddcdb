"""The administrator's file gets one addition, and undo takes exactly that away."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from imagecache.errors import ContainerdMisconfigured
from imagecache.host.containerd_config import Action, Change, ContainerdConfig
from imagecache.host.dropin import DropInSettings
from imagecache.settings.table import Mode

SETTINGS = DropInSettings(
    mode=Mode.PROXY,
    containerd="1.6.20~ds1",
    platform="linux/amd64",
    snapshotter="imagecache",
    socket=Path("/run/imagecache/snapshotter.sock"),
    root=Path("/var/lib/containerd/io.containerd.snapshotter.v1.imagecache"),
    layers=Path("/var/lib/imagecache/layers"),
)
WITHOUT_IMPORTS = '# mine\nversion = 2\n\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "my/pause:1"\n'
TEXTS = {
    "no imports": WITHOUT_IMPORTS,
    "only tables": '[plugins.x]\nimports = ["not this one"]\nversion = 1\n'.replace("version = 1\n", ""),
    "empty list": "version = 2\nimports = []\n",
    "one element": 'imports = ["/etc/containerd/conf.d/*.toml"]\nversion = 2\n',
    "trailing comma": 'version = 2\nimports = [ "a.toml", ]\n',
    "many lines": 'version = 2\nimports = [\n  \'a]".toml\', # one ]\n  "b\\"].toml" # last\n]\n[plugins]\n',
    "comment only": "version = 2\nimports = [ # none yet\n]\n",
}


def installation(tmp_path: Path, **changes: object) -> ContainerdConfig:
    return ContainerdConfig(tmp_path / "config.toml", replace(SETTINGS, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_install_and_undo(tmp_path: Path, text: str) -> None:
    main = tmp_path / "config.toml"
    text = text if "version" in text else "version = 2\n" + text
    main.write_text(text)
    main.chmod(0o600)
    node = installation(tmp_path)

    assert node.install() == [Change(node.path, Action.CREATED), Change(main, Action.UPDATED)]
    before, after = tomllib.loads(text), tomllib.loads(main.read_text())
    assert after.pop("imports") == [*before.pop("imports", []), str(node.path)]
    assert after == before
    assert main.stat().st_mode & 0o777 == 0o600
    assert {change.action for change in node.install()} == {Action.UNCHANGED}

    assert node.undo() == [Change(main, Action.UPDATED), Change(node.path, Action.REMOVED)]
    assert main.read_text() == text
    assert {change.action for change in node.undo()} == {Action.UNCHANGED}
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(("containerd", "version"), [("1.7.24", 2), ("2.4.2", 3)])
def test_without_a_main_file(tmp_path: Path, containerd: str, version: int) -> None:
    node = installation(tmp_path / "etc", containerd=containerd)
    assert {change.action for change in node.install()} == {Action.CREATED}
    main = tmp_path / "etc" / "config.toml"
    assert tomllib.loads(main.read_text()) == {"version": version, "imports": [str(node.path)]}
    assert {change.action for change in node.undo()} == {Action.REMOVED}
    assert list((tmp_path / "etc").iterdir()) == []
    assert {change.action for change in node.undo()} == {Action.UNCHANGED}


def test_a_change_of_the_administrators_is_taken_up_and_survives_undo(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text(WITHOUT_IMPORTS)
    node = installation(tmp_path)
    node.install()
    main.write_text(main.read_text().replace("my/pause:1", "my/pause:2"))
    assert node.install() == [Change(node.path, Action.UPDATED), Change(main, Action.UNCHANGED)]
    assert "my/pause:2" in node.path.read_text()
    node.undo()
    assert main.read_text() == WITHOUT_IMPORTS.replace("my/pause:1", "my/pause:2")


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text("version = 2\n")
    (tmp_path / "config.toml").symlink_to(real)
    installation(tmp_path).install()
    assert (tmp_path / "config.toml").is_symlink()
    assert "imports" in real.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[plugins]\n", "configuration version 2 or later, this is 1"),
        ("version = 2\nimports = 7\n", "imports"),
        ("version = 2\nnested = [\n[1],\n]\nimports = []\n", "imports"),
        ('version = 2\nimports = ["a", [\n', "config.toml"),
    ],
)
def test_a_file_that_cannot_be_extended_is_left_alone(tmp_path: Path, text: str, message: str) -> None:
    main = tmp_path / "config.toml"
    main.write_text(text)
    with pytest.raises(ContainerdMisconfigured, match=message):
        installation(tmp_path).install()
    assert main.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
