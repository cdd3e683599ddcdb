"""Snapshots that nothing serves: containerd's overlay snapshotter once more."""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from imagecache.digest import Digest
from imagecache.errors import (
    InvalidSetting,
    InvalidSnapshotArgument,
    NoSpace,
    SnapshotExists,
    SnapshotNotFound,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    WrongKind,
)
from imagecache.snapshotter.snapshot import Kind, Usage
from testkit.clock import AskingClock
from testkit.snapshotter import SETTINGS, SnapshotterRig

CHAIN = Digest.sha256(b"chain")


def folders(rig: SnapshotterRig) -> set[str]:
    """Names below ``snapshots/``; what is to be deleted without its random part."""
    return {path.name.rpartition("-")[0] or path.name for path in (rig.root / "snapshots").iterdir()}


def test_directories_have_containerds_modes_whatever_the_umask_is(rig: SnapshotterRig) -> None:
    before = os.umask(0o077)
    try:
        rig.snapshotter.prepare("active")
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(rig.root)): path.stat().st_mode & 0o7777
        for path in (rig.root, *rig.root.rglob("*"))
        if path.is_dir()
    }

    assert modes == {
        ".": 0o700,
        "m": 0o700,
        "snapshots": 0o700,
        "snapshots/1": 0o700,
        "snapshots/1/fs": 0o755,
        "snapshots/1/work": 0o711,
    }


def test_a_view_has_no_work_directory(rig: SnapshotterRig) -> None:
    rig.snapshotter.view("view")

    assert [path.name for path in (rig.root / "snapshots/1").iterdir()] == ["fs"]


def test_the_root_of_a_container_belongs_to_whom_it_belongs_below(rig: SnapshotterRig) -> None:
    base = rig.commit("base")
    os.chown(rig.root / "snapshots/1/fs", 12, 34)
    rig.container(base)
    found = (rig.root / "snapshots/2/fs").stat()

    assert (found.st_uid, found.st_gid) == (12, 34)


def test_mounts_are_those_of_prepare(rig: SnapshotterRig) -> None:
    base = rig.commit("base")

    assert rig.snapshotter.prepare("a", base) == rig.snapshotter.mounts("a")
    assert rig.snapshotter.view("v", base) == rig.snapshotter.mounts("v")
    with pytest.raises(WrongKind):
        rig.snapshotter.mounts(base)
    with pytest.raises(SnapshotNotFound):
        rig.snapshotter.mounts("unknown")


def test_a_failed_prepare_leaves_nothing(rig: SnapshotterRig) -> None:
    rig.snapshotter.prepare("a")
    for key, parent, error in (
        ("a", "", SnapshotExists),
        ("b", "unknown", SnapshotNotFound),
        ("b", "a", InvalidSnapshotArgument),
        ("", "", InvalidSnapshotArgument),
    ):
        with pytest.raises(error):
            rig.snapshotter.prepare(key, parent)

    assert folders(rig) == {"1"}
    assert rig.names == ["a"]


def test_a_commit_takes_the_labels_that_it_is_given(rig: SnapshotterRig) -> None:
    rig.snapshotter.prepare("a", "", {"containerd.io/snapshot/x": "1", "empty": ""})
    rig.clock.advance(3)
    rig.snapshotter.commit("c", "a", {"containerd.io/snapshot/y": "2"})
    info = rig.snapshotter.stat("c")

    assert info.labels == {"containerd.io/snapshot/y": "2"}
    assert info.created == info.updated == rig.clock.now()


def test_commits_that_are_refused(rig: SnapshotterRig) -> None:
    base, other = rig.commit("base"), rig.commit("other")
    rig.snapshotter.prepare("a", base)
    rig.snapshotter.view("v", base)
    for name, key, parent, error in (
        (base, "a", "", SnapshotExists),
        ("c", "unknown", "", SnapshotNotFound),
        ("c", "v", "", WrongKind),
        ("c", base, "", WrongKind),
        ("c", "a", other, InvalidSnapshotArgument),
    ):
        with pytest.raises(error):
            rig.snapshotter.commit(name, key, {}, parent)

    assert rig.snapshotter.stat("a").kind is Kind.ACTIVE


def test_a_commit_may_give_a_parent_to_what_has_none(rig: SnapshotterRig) -> None:
    base = rig.commit("base")
    for key in ("a", "b", "c"):
        rig.snapshotter.prepare(key)
    with pytest.raises(SnapshotNotFound):
        rig.snapshotter.commit("x", "a", {}, "unknown")
    with pytest.raises(WrongKind):
        rig.snapshotter.commit("x", "a", {}, "b")
    rig.snapshotter.commit("x", "a", {}, base)

    assert rig.snapshotter.stat("x").parent == base


def test_usage_of_each_kind(rig: SnapshotterRig) -> None:
    rig.snapshotter.prepare("a")
    empty = rig.snapshotter.usage("a")
    (rig.root / "snapshots/1/fs/file").write_bytes(b"x" * 100_000)
    assert rig.snapshotter.usage("a") == empty, "measured a moment ago"
    rig.clock.advance(SETTINGS.usage_age)
    full = rig.snapshotter.usage("a")
    rig.snapshotter.commit("c", "a")
    rig.snapshotter.view("v", "c")

    assert full.inodes == 2
    assert full.size >= 100_000
    assert rig.snapshotter.usage("c") == full
    assert rig.snapshotter.usage("v") == Usage(0, 0)
    with pytest.raises(SnapshotNotFound):
        rig.snapshotter.usage("unknown")


def test_usage_of_a_committed_snapshot_is_measured_once(rig: SnapshotterRig) -> None:
    base = rig.commit("base")
    first = rig.snapshotter.usage(base)
    (rig.root / "snapshots/1/fs/late").write_bytes(b"x" * 100_000)
    rig.restart()

    assert rig.snapshotter.usage(base) == first


def test_removed_directories_are_out_of_the_way_at_once_and_gone_after_a_cleanup(rig: SnapshotterRig) -> None:
    rig.snapshotter.prepare("a")
    rig.snapshotter.prepare("b")
    rig.snapshotter.remove("a")
    assert folders(rig) == {"rm-1", "2"}
    rig.snapshotter.cleanup()

    assert folders(rig) == {"2"}


def test_numbers_are_never_used_twice(rig: SnapshotterRig) -> None:
    rig.snapshotter.prepare("a")
    rig.snapshotter.remove("a")
    rig.restart()
    rig.snapshotter.prepare("a")

    assert folders(rig) == {"rm-1", "2"}


def test_a_cleanup_takes_what_a_crash_left_and_nothing_else(rig: SnapshotterRig) -> None:
    rig.snapshotter.prepare("a")
    for name in ("new-abc", "7", "rm-3"):
        (rig.root / "snapshots" / name / "fs").mkdir(parents=True)
    rig.snapshotter.cleanup()

    assert folders(rig) == {"1"}


def test_one_process_at_a_time(rig: SnapshotterRig) -> None:
    with pytest.raises(StoreBusy, match="in use"):
        SnapshotterRig(rig.root)
    rig.restart()


def test_a_closed_snapshotter_says_so(rig: SnapshotterRig) -> None:
    rig.snapshotter.close()
    with pytest.raises(StoreError, match="closed"):
        rig.snapshotter.walk()


@pytest.mark.parametrize(
    ("content", "words"), [(b"not a database at all, by no means" * 40, "not a database"), (None, "format 99")]
)
def test_a_database_of_somebody_else_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    rig = SnapshotterRig(tmp_path / "root")
    rig.snapshotter.close()
    path = rig.root / "metadata.db"
    for log in rig.root.glob("metadata.db-*"):
        log.unlink()
    if content is None:
        data = bytearray(path.read_bytes())
        data[60:64] = (99).to_bytes(4)  # user_version
        path.write_bytes(data)
    else:
        path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match=words):
            rig.restart()


def test_a_root_that_overlay_cannot_express_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting):
        SnapshotterRig(tmp_path / "a:b")


def test_without_a_layer_image_the_overlay_is_containerds_own(rig: SnapshotterRig) -> None:
    (mount,) = rig.container(rig.commit("base"))

    assert mount.options[-1] == "index=off"


def test_after_a_lost_database_nothing_of_before_is_deleted_or_reused(rig: SnapshotterRig) -> None:
    rig.snapshotter.prepare("running")
    (rig.root / "snapshots/1/fs/data").write_text("of a container")
    rig.lose_database()
    rig.snapshotter.cleanup()
    rig.snapshotter.prepare("new")
    rig.restart()
    rig.snapshotter.cleanup()

    assert folders(rig) == {"1", "2"}
    assert (rig.root / "snapshots/1/fs/data").read_text() == "of a container"


def test_a_full_disk_says_so_and_leaves_nothing(rig: SnapshotterRig) -> None:
    rig.snapshotter.prepare("a")
    database = rig.snapshotter._database._writing
    database.execute(f"PRAGMA max_page_count = {database.execute('PRAGMA page_count').fetchone()[0]}")
    labels = {f"containerd.io/snapshot/{number}": "x" * 4000 for number in range(20)}
    with pytest.raises(NoSpace):
        rig.snapshotter.prepare("b", "", labels)

    assert rig.names == ["a"]
    assert folders(rig) == {"1"}


class _Refusing(sqlite3.Connection):
    """A disk that takes no commit while ``armed``."""

    armed = False
    writing = False

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        self.writing = sql == "BEGIN IMMEDIATE" or (self.writing and not sql.startswith("BEGIN"))
        if self.armed and self.writing and sql == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *values)  # type: ignore[arg-type]  # passed on as they are


def test_a_commit_that_fails_takes_its_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=_Refusing))
    rig = SnapshotterRig(tmp_path / "root")
    monkeypatch.setattr(_Refusing, "armed", True)
    with pytest.raises(StoreError, match="disk I/O error"):
        rig.snapshotter.prepare("a")
    monkeypatch.setattr(_Refusing, "armed", False)

    assert rig.names == []
    assert folders(rig) == {"rm-1"}
    rig.snapshotter.prepare("a")
    rig.snapshotter.remove("a")
    rig.snapshotter.cleanup()
    assert folders(rig) == set()
    rig.snapshotter.close()


def test_a_directory_of_a_process_that_was_killed_is_in_nobodys_way(rig: SnapshotterRig) -> None:
    (rig.root / "snapshots/1/fs").mkdir(parents=True)
    (rig.root / "snapshots/1/fs/stale").touch()
    rig.snapshotter.prepare("a")

    assert folders(rig) == {"1", "rm-1"}
    assert list((rig.root / "snapshots/1/fs").iterdir()) == []


def test_mounts_of_a_snapshot_made_here_are_known_until_it_goes(rig: SnapshotterRig) -> None:
    base = rig.commit("base")
    mounts = rig.snapshotter.prepare("a", base)
    rig.snapshotter.prepare("b", base)

    assert rig.snapshotter.mounts_nowait("a") == mounts
    rig.snapshotter.remove("a")
    rig.snapshotter.commit("committed", "b")

    assert [rig.snapshotter.mounts_nowait(key) for key in ("a", "b", "committed", base)] == [None] * 4


def test_what_could_block_is_not_prepared_at_once(rig: SnapshotterRig) -> None:
    base = rig.commit("base")
    nowait = rig.snapshotter.prepare_nowait
    rig.snapshotter.prewarm()
    assert nowait("a", base) is None  # nobody has looked at what is below
    rig.snapshotter.prepare("a", base)
    rig.snapshotter.prewarm()
    assert nowait(f"k8s.io/9/extract-1-abcd {base}", base) is None  # perhaps the store has that layer

    mounts = nowait("b", base)

    assert mounts == rig.snapshotter.mounts("b") == rig.snapshotter.mounts_nowait("b")
    with pytest.raises(SnapshotExists):
        nowait("b", base)
    made = [nowait(f"c{number}", base) is not None for number in range(20)]
    assert made[0]
    assert not made[-1]  # no directory was made ahead for that one
    assert len(rig.names) == len(folders(rig)) == 3 + sum(made)


def test_nothing_is_prepared_at_once_during_another_transaction(rig: SnapshotterRig) -> None:
    rig.clock = clock = AskingClock()
    rig.settings = replace(SETTINGS, lock_wait=20)
    rig.restart()
    base = rig.commit("base")
    rig.snapshotter.prepare("a", base)
    rig.snapshotter.prewarm()
    clock.question = lambda: rig.snapshotter.prepare_nowait("b", base)
    start = time.monotonic()
    rig.snapshotter.update(base, {"x": "1"})

    assert clock.answers == [None]
    assert time.monotonic() - start < rig.settings.lock_wait / 2
    assert rig.snapshotter.prepare_nowait("b", base) is not None


def test_a_parent_that_is_gone_is_looked_for(rig: SnapshotterRig) -> None:
    rig.snapshotter.prepare("x")
    rig.snapshotter.commit("base", "x")
    rig.snapshotter.prepare("a", "base")
    rig.snapshotter.prewarm()
    rig.snapshotter.remove("a")
    rig.snapshotter.remove("base")

    assert rig.snapshotter.prepare_nowait("b", "base") is None
    with pytest.raises(SnapshotNotFound):
        rig.snapshotter.prepare("b", "base")


def test_the_log_of_the_database_is_written_back(rig: SnapshotterRig) -> None:
    base = rig.commit("base")
    for number in range(300):
        rig.snapshotter.prepare(f"a{number}", base)
        rig.snapshotter.remove(f"a{number}")

    assert (rig.root / "metadata.db-wal").stat().st_size < 4_000_000


def test_directories_made_ahead_are_used_and_never_orphans(rig: SnapshotterRig) -> None:
    rig.snapshotter.prewarm()
    rig.snapshotter.prewarm()
    ahead = {path.stat().st_ino for path in (rig.root / "snapshots").iterdir()}
    rig.snapshotter.cleanup()
    for number in range(9):
        rig.snapshotter.prepare(f"a{number}")
    rig.snapshotter.view("v")

    assert len(ahead) == 8
    assert {path.stat().st_ino for path in (rig.root / "snapshots").iterdir()} > ahead
    assert folders(rig) == {str(number) for number in range(1, 11)}


def test_directories_made_ahead_go_with_the_process(rig: SnapshotterRig) -> None:
    rig.snapshotter.prewarm()
    rig.restart()
    rig.snapshotter.cleanup()

    assert folders(rig) == set()
