"""The administrator's file gets one addition, and undo takes exactly that away."""

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from imagecache.errors import ContainerdMisconfigured
from imagecache.host.containerd_config import Action, Change, ConfigState, ContainerdConfig, with_import
from imagecache.host.dropin import DropInSettings
from imagecache.settings.choices import Mode

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
    "a relative pattern": 'imports = ["conf.d/*.toml"]\nversion = 2\n',
    "a pattern of directories": 'imports = ["/nowhere/*/containerd.toml"]\nversion = 2\n',
    "a pattern of other names": 'imports = ["/nowhere/99-*.toml"]\nversion = 2\n',
    "trailing comma": 'version = 2\nimports = [ "a.toml", ]\n',
    "many lines": 'version = 2\nimports = [\n  \'a]".toml\', # one ]\n  "b\\"].toml" # last\n]\n[plugins]\n',
    "a version alone": "version = 2\n",
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


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_lines_may_end_as_on_windows(tmp_path: Path, text: str) -> None:
    main = tmp_path / "config.toml"
    before = (text if "version" in text else "version = 2\n" + text).replace("\n", "\r\n").encode()
    main.write_bytes(before)
    node = installation(tmp_path)

    node.install()
    assert node.look().state is ConfigState.OK
    assert main.read_bytes().count(b"\r\n") == main.read_bytes().count(b"\n")
    assert {change.action for change in node.install()} == {Action.UNCHANGED}
    node.undo()
    assert main.read_bytes() == before


def test_an_editor_may_change_the_ends_of_lines(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text(WITHOUT_IMPORTS)
    node = installation(tmp_path)
    node.install()
    main.write_bytes(main.read_bytes().replace(b"\n", b"\r\n"))

    assert node.look().state is ConfigState.OK
    node.undo()
    assert main.read_bytes() == WITHOUT_IMPORTS.replace("\n", "\r\n").encode()


@pytest.mark.parametrize("containerd", ["1.6.20", "1.7.24", "2.0.13", "2.4.2"])
@pytest.mark.parametrize("text", ["", "\n", "# nothing\r\n", "version = 1\n", "[plugins]\n", 'root = "/data"\n'])
def test_a_file_without_plugins_needs_no_version(tmp_path: Path, containerd: str, text: str) -> None:
    """An empty one is containerd's default, as no file is."""
    main = tmp_path / "config.toml"
    main.write_bytes(text.encode())
    node = installation(tmp_path, containerd=containerd)

    node.install()
    assert node.look().state is ConfigState.OK
    assert tomllib.loads(main.read_text())["imports"] == [str(node.path)]
    node.undo()
    assert main.read_bytes() == text.encode()


def test_containerd_2_translates_a_file_of_version_1_itself(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text('[plugins.cri.containerd]\n  snapshotter = "zfs"\n')
    node = installation(tmp_path, containerd="2.4.2")

    node.install()
    assert node.look().state is ConfigState.OK
    assert node.default_snapshotter() == "zfs"


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
        ('[plugins.cri]\n  sandbox_image = "my/pause:1"\n', "configuration version 2, this is 1"),
        ('disabled_plugins = ["cri"]\n', "configuration version 2, this is 1"),
        ("version = 1\nrequired_plugins = ['cri']\n", "configuration version 2, this is 1"),
        ('version = "2"\n', "version is '2' and not a number"),
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


def importing(main: Path, *others: str) -> str:
    """A main file that imports ``others`` and, last, the directory conf.d beside it."""
    names = [*others, f"{main.parent}/conf.d/*.toml"]
    return f"version = 2\nimports = {names}\n".replace("'", '"')


def test_an_imported_directory_is_used(tmp_path: Path) -> None:
    """Whoever writes the main file anew writes that import again."""
    main = tmp_path / "config.toml"
    main.write_text(importing(main, "a.toml"))
    node = installation(tmp_path)

    assert node.install() == [
        Change(tmp_path / "conf.d/zz-imagecache.toml", Action.CREATED),
        Change(main, Action.UNCHANGED),
    ]
    main.write_text(importing(main, "b.toml"))
    assert node.look().state is ConfigState.OK
    assert {change.action for change in node.install()} == {Action.UNCHANGED}
    node.undo()
    assert (main.read_text(), list((tmp_path / "conf.d").iterdir())) == (importing(main, "b.toml"), [])


def test_a_directory_that_is_not_read_last_is_not_used(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text(with_import(importing(main), tmp_path / "later.toml"))
    assert installation(tmp_path).path == tmp_path / "imagecache.toml"

    main.write_text(importing(main))
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/zzz.toml").touch()
    assert installation(tmp_path).path == tmp_path / "imagecache.toml"


def test_the_drop_in_moves_with_the_imports(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text(WITHOUT_IMPORTS)
    node = installation(tmp_path)
    node.install()

    main.write_text(with_import(importing(main), tmp_path / "imagecache.toml"))
    node.install()
    assert main.read_text() == importing(main)
    assert [path.name for path in tmp_path.rglob("*imagecache.toml")] == ["zz-imagecache.toml"]

    main.write_text(WITHOUT_IMPORTS)
    assert node.look().state is ConfigState.NOT_IMPORTED
    node.install()
    assert node.look().state is ConfigState.OK
    assert [path.name for path in tmp_path.rglob("*imagecache.toml")] == ["imagecache.toml"]
    node.undo()
    assert (main.read_text(), list(tmp_path.rglob("*imagecache.toml"))) == (WITHOUT_IMPORTS, [])


def test_a_rewritten_file_is_repaired(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text(WITHOUT_IMPORTS)
    node = installation(tmp_path)
    before = node.look()
    assert (before.state, before.changed) == (ConfigState.ABSENT, main.stat().st_ctime)
    node.install()
    assert node.look().state is ConfigState.OK

    main.write_text(WITHOUT_IMPORTS)
    assert node.look().state is ConfigState.NOT_IMPORTED
    node.install()
    assert node.look().state is ConfigState.OK
    assert tomllib.loads(main.read_text())["imports"] == [str(node.path)]
    main.unlink()
    assert node.look().state is ConfigState.NOT_IMPORTED


def test_a_changed_cri_section_is_copied_again(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text(WITHOUT_IMPORTS)
    node = installation(tmp_path)
    node.install()

    main.write_text(main.read_text().replace("my/pause:1", "my/pause:2"))
    assert node.look().state is ConfigState.STALE
    node.install()
    assert node.look().state is ConfigState.OK
    assert "my/pause:2" in node.path.read_text()


def test_the_fingerprint_is_that_of_what_would_be_written(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text(WITHOUT_IMPORTS)
    node = installation(tmp_path)
    before = node.look().fingerprint
    node.install()
    assert node.look().fingerprint == before, "installed or not"

    main.write_text(WITHOUT_IMPORTS.replace("my/pause:1", "my/pause:2"))
    assert node.look().fingerprint != before
    main.write_text(WITHOUT_IMPORTS)
    assert installation(tmp_path, snapshotter="other").look().fingerprint != before


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("version = [\n")
    with pytest.raises(ContainerdMisconfigured, match=r"config\.toml"):
        installation(tmp_path).look()


def test_a_change_of_an_import_counts(tmp_path: Path) -> None:
    """nvidia-ctk and others write files of their own there."""
    main, imported = tmp_path / "config.toml", tmp_path / "conf.d/99-nvidia.toml"
    main.write_text(f'imports = ["{tmp_path}/conf.d/*.toml"]\n{WITHOUT_IMPORTS}')
    node = installation(tmp_path)
    node.install()
    imported.parent.mkdir(exist_ok=True)
    imported.write_text("version = 2\n")
    os.utime(main)
    written = main.stat().st_ctime
    while imported.stat().st_ctime <= written:
        imported.write_text("version = 2\n")

    assert node.look().changed == imported.stat().st_ctime


def test_what_is_copied_is_as_private_as_it_was(tmp_path: Path) -> None:
    """The cri section may have credentials of registries."""
    main = tmp_path / "config.toml"
    main.write_text(WITHOUT_IMPORTS)
    node = installation(tmp_path)
    node.install()
    assert node.path.stat().st_mode & 0o777 == 0o644

    main.chmod(0o600)
    assert {change.action for change in node.install()} == {Action.UNCHANGED}, "no reason to restart containerd"
    assert node.path.stat().st_mode & 0o777 == 0o600
    node.undo()
    node.install()
    assert node.path.stat().st_mode & 0o777 == 0o600


def test_what_another_program_writes_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text(WITHOUT_IMPORTS)

    def maps_ids() -> bool:
        main.write_text("version = 2\n# theirs\n")
        return False

    with pytest.raises(ContainerdMisconfigured, match="changed by another program"):
        ContainerdConfig(main, SETTINGS, maps_ids).install()
    assert main.read_text() == "version = 2\n# theirs\n"
    assert not list(tmp_path.glob(".*")), "no temporary file"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text(WITHOUT_IMPORTS)
    node = installation(tmp_path)
    node.install()
    node.path.write_bytes(b"\xff\xfe")
    assert node.look().state is ConfigState.STALE
    node.install()
    assert node.look().state is ConfigState.OK

    main.write_bytes(b"\xff\xfe")
    for call in (node.look, node.install, node.undo):
        with pytest.raises(ContainerdMisconfigured, match=r"config\.toml"):
            call()
