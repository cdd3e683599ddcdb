"""The snapshotter is killed at every point where it changes something; the next one goes on as if nothing had been.

Points are the calls that change the disk, mounts, holds in the store, and both sides of every commit of the database.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagecache.digest import ChainID, DiffID, Digest, chain_ids
from imagecache.snapshotter.snapshot import REF_LABEL, LayerExists
from imagecache.snapshotter.snapshotter import Snapshotter
from imagecache.store.store import Store
from testkit.clock import FakeClock
from testkit.faults import killed_at
from testkit.store import put_bundle

CONTENTS = [b"base" * 100, b"app" * 100]
DIFF_IDS = [DiffID(Digest.sha256(content)) for content in CONTENTS]
CHAINS = chain_ids(DIFF_IDS)
SERVED = [f"k8s.io/{number}/extract-1-a {chain}" for number, chain in enumerate(CHAINS)]


class DiskMounter:
    """``Mounter`` whose mounts are files, so that they outlive a process as real ones do."""

    def __init__(self, table: Path) -> None:
        self._table = table
        table.mkdir(exist_ok=True)

    def mount(self, image: Path, target: Path) -> None:
        assert image.is_file()
        target.mkdir(exist_ok=True)
        os.close(os.open(self._table / target.name, os.O_CREAT | os.O_WRONLY))

    def unmount(self, target: Path) -> None:
        if self.mounted(target):
            (self._table / target.name).unlink()

    def mounted(self, target: Path) -> bool:
        return (self._table / target.name).exists()

    def version(self) -> object:
        return None

    @property
    def mounts(self) -> set[str]:
        return {path.name for path in self._table.iterdir()}


class MarkedConnection(sqlite3.Connection):
    """A point before each commit, and one after it."""

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        marked = sql == "COMMIT"
        if marked:
            os.utime("/dev/null")
        cursor = super().execute(sql, *values)  # type: ignore[arg-type]  # passed on as they are
        if marked:
            os.utime("/dev/null")
        return cursor


@dataclass
class Host:
    """Everything that a kill leaves."""

    root: Path

    def __post_init__(self) -> None:
        self.store = Store.open(self.root / "store")
        self.mounter = DiskMounter(self.root / "mounted")
        self.log = self.root / "told"

    def open(self) -> Snapshotter:
        return Snapshotter(self.root / "state", self.store.provider, self.mounter, FakeClock())

    def tell(self, words: str) -> None:
        """What a caller knows; written at once and no point by itself."""
        fd = os.open(self.log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(fd, f"{words}\n".encode())
        os.close(fd)

    @property
    def names(self) -> set[str]:
        """What must be there: what was said to be made, less what was said to be removed or may be."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        made = {line[1:] for line in lines if line[0] == "+"}
        return made - {line[1:] for line in lines if line[0] in "-~"}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    put_bundle(host.store, "imc-0123456789abcdefghij", DIFF_IDS, CONTENTS)
    return host


def serve(snapshotter: Snapshotter, key: str, chain: ChainID, parent: str) -> str:
    assert isinstance(snapshotter.prepare(key, parent, {REF_LABEL: chain}), LayerExists)
    (info,) = snapshotter.walk([f'labels."{REF_LABEL}"=={chain},parent=="{parent}"'])
    return info.name


def life(host: Host) -> None:
    """Some of everything; each step says what it is about to undo, and what it has done."""
    snapshotter = host.open()
    base = serve(snapshotter, SERVED[0], CHAINS[0], "")
    host.tell(f"+{base}")
    app = serve(snapshotter, SERVED[1], CHAINS[1], base)
    host.tell(f"+{app}")
    snapshotter.prepare("k8s.io/8/extract-2-b top", app)
    host.tell("+k8s.io/8/extract-2-b top")
    host.tell("~k8s.io/8/extract-2-b top")
    snapshotter.commit("k8s.io/9/top", "k8s.io/8/extract-2-b top")
    host.tell("+k8s.io/9/top")
    snapshotter.view("k8s.io/10/view", "k8s.io/9/top")
    host.tell("+k8s.io/10/view")
    snapshotter.prepare("k8s.io/11/container", "k8s.io/9/top")
    host.tell("+k8s.io/11/container")
    for name in ("k8s.io/10/view", "k8s.io/11/container", "k8s.io/9/top", app):
        host.tell(f"~{name}")
        snapshotter.remove(name)
        host.tell(f"-{name}")
    snapshotter.cleanup()
    snapshotter.close()


def check(host: Host, snapshotter: Snapshotter) -> None:
    """Nothing that was promised is missing, and after a clean-up nothing else is there."""
    names = {info.name for info in snapshotter.walk()}
    assert host.names <= names
    snapshotter.cleanup()
    ordinary = [name for name in names if "/served-" not in name]
    folders = {path.name for path in (host.root / "state/snapshots").iterdir()}
    assert all(folder.isdecimal() for folder in folders)
    assert len(folders) == len(ordinary)
    served = len(names) - len(ordinary)
    assert len(host.mounter.mounts) == served
    assert {path.name for path in (host.root / "state/m").iterdir()} == host.mounter.mounts
    assert len(host.store.leases.leased()) == served
    for name in ordinary:
        if "top" not in name or "extract" in name:
            snapshotter.mounts(name)


def remove_all(snapshotter: Snapshotter) -> None:
    for info in reversed(snapshotter.walk()):
        snapshotter.remove(info.name)
    snapshotter.cleanup()


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connect_marked(*args: object, **options: object) -> sqlite3.Connection:
        return connect(*args, factory=MarkedConnection, **options)

    monkeypatch.setattr(sqlite3, "connect", connect_marked)


@pytest.mark.usefixtures("marked")
@pytest.mark.timeout(300)
def test_killed_anywhere(host: Host) -> None:
    point = 0
    while killed_at(point, lambda: life(host)):
        snapshotter = host.open()
        check(host, snapshotter)
        remove_all(snapshotter)
        assert not host.mounter.mounts
        assert not host.store.leases.leased()
        snapshotter.close()
        host.log.unlink(missing_ok=True)
        point += 1

    assert point > 60, "there are that many points at least"


def test_a_life_after_each_kill_of_the_one_before(host: Host) -> None:
    """Without taking anything back in between: every life finds what the last one left."""
    for point in range(0, 60, 7):
        killed_at(point, lambda: life(host))
        host.log.unlink(missing_ok=True)
        snapshotter = host.open()
        base = serve(snapshotter, SERVED[0], CHAINS[0], "")
        serve(snapshotter, SERVED[1], CHAINS[1], base)
        check(host, snapshotter)
        for info in reversed(snapshotter.walk()):
            if info.name != base:
                snapshotter.remove(info.name)
        snapshotter.close()
