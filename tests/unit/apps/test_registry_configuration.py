"""The version of what is configured about registries: another one with every change, and never a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from imagecache.apps.registry_configuration import configuration
from imagecache.settings.table import Settings


def test_every_change_is_another_version(tmp_path: Path) -> None:
    hosts, home, bundle = tmp_path / "certs.d", tmp_path / "home", tmp_path / "ca.crt"
    version = configuration(Settings(hosts=hosts), {"SSL_CERT_FILE": str(bundle)}, home)
    seen = [version()]
    assert version() == seen[0], "nothing is there, and that is no failure"

    (hosts / "docker.io").mkdir(parents=True)
    (home / ".docker").mkdir(parents=True)
    file = hosts / "docker.io" / "hosts.toml"
    changes: list[Callable[[], object]] = [
        lambda: file.write_text('server = "https://a"'),
        lambda: file.write_text('server = "https://ab"'),
        lambda: (hosts / "docker.io" / "ca.crt").write_text("x"),
        lambda: (home / ".docker" / "config.json").write_text("{}"),
        lambda: bundle.write_text("y"),
        file.unlink,
    ]
    for change in changes:
        change()
        seen.append(version())

    assert len(set(seen)) == len(seen)
    assert version() == seen[-1]


def test_another_list_of_registries_is_another_version(tmp_path: Path) -> None:
    """A cache that failed for a host that was not listed is tried again when it is."""
    versions = {
        configuration(Settings(hosts=tmp_path, insecure_registries=listed), {}, tmp_path)()
        for listed in ((), ("auto",), ("registry.example:5000",), ("a", "b"), ("a,b",))
    }

    assert len(versions) == 5


def test_a_config_map_that_is_mounted_is_followed(tmp_path: Path) -> None:
    """As kubelet mounts one: its keys are links through ``..data``, which alone is replaced."""
    hosts = tmp_path / "certs.d"
    hosts.mkdir()
    version = configuration(Settings(hosts=hosts), {}, tmp_path)
    for number in (1, 2):
        (hosts / f"..{number}" / "docker.io").mkdir(parents=True)
        (hosts / f"..{number}" / "docker.io" / "hosts.toml").write_text(f"# {number}")
    data = hosts / "..data"
    data.symlink_to("..1")
    (hosts / "docker.io").symlink_to("..data/docker.io")
    before = version()
    data.unlink()
    data.symlink_to("..2")

    assert version() != before


def test_nothing_of_a_content_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"auths": {}}')
    times = file.stat()
    version = configuration(Settings(hosts=tmp_path / "none", docker_config=str(file)), {}, tmp_path)
    before = version()
    with file.open("r+b") as opened:
        opened.write(b'{"sacks": {}}')
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert version() == before
