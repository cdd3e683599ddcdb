"""containerd itself reads what we have made of its files: the empty one, those without a version, those of Windows."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from imagecache.host.containerd_config import ContainerdConfig
from imagecache.host.containerd_process import config_problem, installed_version
from imagecache.host.dropin import DropInSettings, default_snapshotter
from imagecache.host.user_config import UserConfig
from imagecache.settings.choices import Mode
from testkit.peers.containerd import VERSIONS, Version
from testkit.peers.programs import containerd_24, find, run

pytestmark = pytest.mark.peers
PROGRAMS = {"system": lambda: find("containerd"), "2.4": lambda: containerd_24() / "containerd"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("text", ["", "# nothing\r\n", "version = 1\r\n", "version = 2\r\noom_score = -999\r\n"])
def test_a_file_without_plugins(directory: Path, version: Version, text: str) -> None:
    program, main = str(PROGRAMS[version]()), directory / "config.toml"
    main.write_bytes(text.encode())
    before = snapshotter(program, main)
    config = ContainerdConfig(
        main,
        DropInSettings(
            mode=Mode.PROXY,
            containerd=installed_version(program),
            platform="linux/amd64",
            snapshotter="imagecache",
            socket=directory / "snapshotter.sock",
            root=directory / "snapshotter",
            layers=directory / "layers",
        ),
    )

    config.install()
    assert config_problem(main, program) == ""
    assert (before, snapshotter(program, main)) == ("overlayfs", "imagecache")
    config.undo()
    assert main.read_bytes() == text.encode()


def snapshotter(program: str, main: Path) -> str:
    """CRI's, as containerd merges its files."""
    document = tomllib.loads(run([program, "--config", main, "config", "dump"]))
    return default_snapshotter(UserConfig(plugins=document["plugins"]))
