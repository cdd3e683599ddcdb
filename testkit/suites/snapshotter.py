"""What containerd asks of every snapshotter, check by check, without gRPC and without a kernel.

An outline of core/snapshots/testsuite of containerd 2.4.2, by its names; the original runs against our socket in
``tests/peers``. Subclass ``SnapshotterSuite`` and give it a ``stage`` fixture.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest

from imagecache.errors import (
    HasChildren,
    InvalidSnapshotArgument,
    SnapshotExists,
    SnapshotNotFound,
    WrongKind,
)
from imagecache.snapshotter.mounts import Mount
from imagecache.snapshotter.snapshot import Info, Kind
from imagecache.snapshotter.snapshotter import Snapshotter
from testkit.snapshotter import mounts_for

ROOT_LABEL = {"containerd.io/gc.root": "now"}
Change = Callable[[Path], None]
"""Something that is done to the tree at a root."""


class Mounting(Protocol):
    def mounted(self, mounts: Sequence[Mount]) -> AbstractContextManager[Path]:
        """A directory that shows what is mounted, and takes changes."""


@dataclass
class Stage:
    snapshotter: Snapshotter
    mounting: Mounting
    scratch: Path
    """For trees to compare with."""
    advance: Callable[[float], None]
    """Let so many seconds pass."""

    def committed(self, name: str, parent: str = "", change: Change | None = None) -> str:
        mounts = mounts_for(self.snapshotter.prepare(f"{name}-active", parent, ROOT_LABEL))
        if change is not None:
            with self.mounting.mounted(mounts) as root:
                change(root)
        self.snapshotter.commit(name, f"{name}-active", ROOT_LABEL)
        return name

    def view(self, parent: str) -> AbstractContextManager[Path]:
        return self.mounting.mounted(self.snapshotter.view(f"{parent}-view", parent, ROOT_LABEL))

    def compare(self, *changes: Change) -> None:
        """Each change in a snapshot of its own gives the same tree as all of them in one directory."""
        flat = self.scratch / "flat"
        flat.mkdir()
        parent = ""
        for number, change in enumerate(changes):
            parent = self.committed(f"layer-{number}", parent, change)
            change(flat)
            with self.view(parent) as root:
                assert tree(root) == tree(flat)
            self.snapshotter.remove(f"{parent}-view")


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Path -> mode, owner, content of everything below ``root``."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


def file(name: str, content: str, mode: int = 0o644) -> Change:
    def change(root: Path) -> None:
        (root / name).write_text(content)
        (root / name).chmod(mode)

    return change


def folder(name: str, mode: int = 0o755) -> Change:
    def change(root: Path) -> None:
        (root / name).mkdir()
        (root / name).chmod(mode)

    return change


def gone(name: str) -> Change:
    def change(root: Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def owner(*names: str, to: int = 1) -> Change:
    def change(root: Path) -> None:
        for name in names:
            os.chown(root / name, to, to)

    return change


def moved(name: str, to: str) -> Change:
    def change(root: Path) -> None:
        (root / name).rename(root / to)

    return change


def both(*changes: Change) -> Change:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


BASIC = both(file("foo", "foo\n"), folder("a"), folder("a/b"), folder("a/b/c"))
BASIC_ABOVE = both(file("bar", "bar\n"), file("foo", "bar\n"), gone("a/b"))


class SnapshotterSuite:
    @pytest.fixture
    def stage(self) -> Stage:
        raise NotImplementedError

    def test_basic(self, stage: Stage) -> None:
        snapshotter = stage.snapshotter
        first = stage.committed("first", "", BASIC)
        assert (snapshotter.stat(first).kind, snapshotter.stat(first).parent) == (Kind.COMMITTED, "")
        with pytest.raises(SnapshotNotFound):
            snapshotter.stat("first-active")
        second = stage.committed("second", first, BASIC_ABOVE)
        assert snapshotter.stat(second).parent == first
        assert {info.name: info for info in snapshotter.walk()} == {
            name: snapshotter.stat(name) for name in (first, second)
        }
        with stage.view(second) as root:
            assert sorted(path.name for path in root.rglob("*")) == ["a", "bar", "foo"]
        snapshotter.remove("second-view")
        with pytest.raises(HasChildren, match="remove"):
            snapshotter.remove(first)
        snapshotter.remove(second)
        snapshotter.remove(first)

    def test_stat_active(self, stage: Stage) -> None:
        stage.snapshotter.prepare("active", "", ROOT_LABEL)
        info = stage.snapshotter.stat("active")
        assert (info.name, info.kind, info.parent, info.labels) == ("active", Kind.ACTIVE, "", ROOT_LABEL)

    def test_stat_committed(self, stage: Stage) -> None:
        info = stage.snapshotter.stat(stage.committed("committed"))
        assert (info.name, info.kind, info.parent) == ("committed", Kind.COMMITTED, "")

    def test_transitivity(self, stage: Stage) -> None:
        stat = stage.snapshotter.stat
        a = stage.committed("a", "", file("foo", "foo\n"))
        b = stage.committed("b", a, file("foo", "foo bar\n"))
        assert (stat(a).parent, stat(b).parent, stat(stat(b).parent).parent) == ("", a, "")

    def test_prepare_view_failing(self, stage: Stage) -> None:
        snapshotter = stage.snapshotter
        a = stage.committed("a")
        for taken, again in (("prepare", "view"), ("prepare", "prepare"), ("view", "view"), ("view", "prepare")):
            key = f"{taken}-{again}"
            getattr(snapshotter, taken)(key, a)
            with pytest.raises(SnapshotExists):
                getattr(snapshotter, again)(key, a)
        with pytest.raises(SnapshotExists):
            snapshotter.prepare(a)
        with pytest.raises(SnapshotNotFound):
            snapshotter.prepare("orphan", "unknown")
        with pytest.raises(InvalidSnapshotArgument):
            snapshotter.prepare("child", "prepare-view")

    def test_update(self, stage: Stage) -> None:
        snapshotter = stage.snapshotter
        stage.committed("c2", stage.committed("c1"))
        snapshotter.prepare("a1", "c2", ROOT_LABEL)
        snapshotter.view("v1", "c2", ROOT_LABEL)
        for name in ("c1", "c2", "a1", "v1"):
            before = snapshotter.stat(name)
            assert before.created == before.updated
            stage.advance(5)
            after = snapshotter.update(name, {"l1": "v1", "l2": "v2", "l3": "v3"})
            assert after.labels == {"l1": "v1", "l2": "v2", "l3": "v3"}
            assert after.updated >= before.updated + dt.timedelta(seconds=5)
            assert replace(after, labels=before.labels, updated=before.updated) == before
            changed = snapshotter.update(name, {"l1": "new", "l4": "v4"}, ["labels.l1", "labels.l2"])
            assert changed.labels == {"l1": "new", "l3": "v3"}
            assert snapshotter.update(name, {"l4": "v4"}, ["labels"]).labels == {"l4": "v4"}
            with pytest.raises(InvalidSnapshotArgument):
                snapshotter.update(name, {}, ["parent"])
        with pytest.raises(SnapshotNotFound):
            snapshotter.update("unknown", {})

    def test_remove(self, stage: Stage) -> None:
        snapshotter = stage.snapshotter
        one = stage.committed("committed-1")
        snapshotter.prepare("reuse", one)
        snapshotter.remove("reuse")
        snapshotter.view("reuse", one)
        snapshotter.remove("reuse")
        snapshotter.prepare("reuse")
        snapshotter.remove(one)
        snapshotter.commit(one, "reuse")
        with pytest.raises(SnapshotNotFound):
            snapshotter.remove("reuse")

    def test_walk(self, stage: Stage) -> None:
        snapshotter = stage.snapshotter
        snapshotter.prepare("a-np", "", ROOT_LABEL)
        stage.committed("p")
        snapshotter.prepare("a", "p", ROOT_LABEL)
        snapshotter.view("v", "p", ROOT_LABEL)
        snapshotter.prepare("tmp")
        snapshotter.commit("p-wl", "tmp", {"l": "1"} | ROOT_LABEL)
        snapshotter.prepare("a-wl", "p-wl", {"l": "2"} | ROOT_LABEL)
        for texts, names in (
            ([], {"a-np", "p", "a", "v", "p-wl", "a-wl"}),
            (['labels."containerd.io/gc.root"==now,kind==active'], {"a-np", "a", "a-wl"}),
            (["kind==view"], {"v"}),
            (["kind==committed"], {"p", "p-wl"}),
            (["name==p", "name==a-wl"], {"p", "a-wl"}),
            (["name==a-wl,labels.l"], {"a-wl"}),
            (["parent==p"], {"a", "v"}),
            (['parent!=""'], {"a", "v", "a-wl"}),
            (["labels.l==2"], {"a-wl"}),
        ):
            assert {info.name for info in snapshotter.walk(texts)} == names

    def test_layer_file_update(self, stage: Stage) -> None:
        stage.compare(
            both(folder("etc", 0o700), file("etc/hosts", "10.0.0.1"), file("etc/profile", "PATH=/usr/bin")),
            both(file("etc/hosts", "10.0.0.2"), file("etc/profile", "PATH=/usr/bin", 0o666), folder("root", 0o700)),
        )

    def test_remove_directory_in_lower_layer(self, stage: Stage) -> None:
        stage.compare(
            both(folder("lib", 0o700), file("lib/hidden", "")),
            both(gone("lib"), folder("lib", 0o700), file("lib/not-hidden", "")),
            file("lib/newfile", ""),
        )

    def test_chown(self, stage: Stage) -> None:
        stage.compare(
            both(folder("opt"), folder("opt/a"), folder("opt/a/b"), file("opt/a/b/file.txt", "hello")),
            owner("opt", "opt/a", "opt/a/b", "opt/a/b/file.txt"),
        )

    def test_directory_permission_on_commit(self, stage: Stage) -> None:
        stage.compare(
            both(*(folder(f"dir{n}", 0o700) for n in range(1, 5)), file("dir4/f1", "..."), owner("dir1", "dir3")),
            both(owner("dir1", to=0), gone("dir3"), owner("dir4", "dir4/f1")),
            both(folder("dir3", 0o700), owner("dir3")),
        )

    def test_remove_intermediate_snapshot(self, stage: Stage) -> None:
        stage.committed("inter", stage.committed("base"))
        stage.snapshotter.prepare("top", "inter")
        with pytest.raises(HasChildren):
            stage.snapshotter.remove("inter")
        for name in ("top", "inter", "base"):
            stage.snapshotter.remove(name)

    def test_deleted_files_in_child_snapshot(self, stage: Stage) -> None:
        stage.compare(both(file("foo", "foo\n"), file("foobar", "foobar\n")), gone("foobar"), both())

    def test_move_file_from_lower_layer(self, stage: Stage) -> None:
        stage.compare(
            both(folder("dir1"), file("dir1/f1", "Hello"), folder("dir2"), file("dir2/f2", "...")),
            both(folder("dir3"), file("dir3/f1", "Hello"), gone("dir1"), moved("dir2/f2", "dir3/f2")),
        )

    def test_view_readonly(self, stage: Stage) -> None:
        stage.committed("two", stage.committed("one"))
        (bound,) = stage.snapshotter.view("view-1", "one")
        assert bound.options == ("ro", "rbind")
        (stacked,) = stage.snapshotter.view("view-2", "two")
        assert not [option for option in stacked.options if option.startswith(("upperdir", "workdir"))]
        with pytest.raises(WrongKind):
            stage.snapshotter.commit("three", "view-2")

    def test_stat_in_walk(self, stage: Stage) -> None:
        stage.committed("c2", stage.committed("c1"))
        stage.snapshotter.view("v1", "c2")
        found: list[Info] = stage.snapshotter.walk()
        assert [stage.snapshotter.stat(info.name) for info in found] == found

    def test_close_twice(self, stage: Stage) -> None:
        stage.snapshotter.remove(stage.committed("some"))
        stage.snapshotter.close()
        stage.snapshotter.close()

    def test_root_permission(self, stage: Stage) -> None:
        with stage.mounting.mounted(mounts_for(stage.snapshotter.prepare("active"))) as root:
            assert root.stat().st_mode & 0o7777 == 0o755

    def test_rename(self, stage: Stage) -> None:
        stage.compare(
            both(folder("some", 0o700), file("some/f1", "was here first!"), file("some/f2", "nothing interesting")),
            both(file("some/new", "new content 1"), moved("some/new", "some/f1"), moved("some/f2", "some/f3")),
        )

    def test_128_layers_mount(self, stage: Stage) -> None:
        flat = stage.scratch / "flat"
        flat.mkdir()
        parent = ""
        for number in range(128):
            change = None
            if number % 16 == 0:  # what is mounted is copied here, so most layers are empty
                change = both(file("over", f"{number} WAS HERE!\n"), file(f"file-{number}", "same\n"))
                change(flat)
            parent = stage.committed(f"committed-{number}", parent, change)
        with stage.view(parent) as root:
            assert tree(root) == tree(flat)
