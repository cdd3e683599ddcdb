"""The version of what this host has configured about registries: hosts.toml trees, certificates, Docker's credentials.

A failure that a registry has answered is tried again when it changes, as a ConfigMap does that is mounted there, or
the list of registries that need no verification. Files by times and sizes, not by content: it is stored where many may
read it, and a short password could be guessed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from imagecache.file_version import file_version
from imagecache.registry.docker_config import config_path
from imagecache.settings.table import Settings

_FILES = 4096
"""Files that are looked at; a tree of hosts.toml has two or three for each registry."""


def configuration(settings: Settings, environment: Mapping[str, str], home: Path) -> Callable[[], str]:
    """Calls block on the disk, and never fail: what is missing is a state like any other."""
    certificates = (environment.get(name, "") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    docker = config_path(settings.docker_config, environment, home)
    places = (settings.hosts, docker, *(Path(each) for each in certificates if each))

    def version() -> str:
        found = hashlib.sha256("\n".join(settings.insecure_registries).encode())
        for path in itertools.islice(itertools.chain.from_iterable(map(_files, places)), _FILES):
            found.update(f"{path}={file_version(path)}\n".encode())
        return found.hexdigest()[:16]

    return version


def _files(place: Path | None) -> Iterator[Path]:
    """The file, or every file below the directory; links are followed, as ConfigMaps are mounted with them."""
    if place is None:
        return
    if not place.is_dir():
        yield place
        return
    for directory, folders, files in os.walk(place):
        folders.sort()
        yield from (Path(directory) / name for name in sorted(files))
        yield from (Path(directory) / name for name in folders if (Path(directory) / name).is_symlink())
