from __future__ import annotations

import json
import stat
import tempfile
from pathlib import Path

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.errors import StoreDenied, StoreError
from imagecache.store.store import Store
from imagecache.store.suitability import filesystem_type
from testkit.store import put_bundle


def test_a_new_store_is_private_and_an_oci_layout(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "some" / "where")

    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in store.paths.directories)
    assert json.loads((store.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads(store.paths.index.read_bytes())["manifests"] == []
    assert store.usage().total == 0


def test_opening_again_changes_nothing(store: Store) -> None:
    put_bundle(store, "imc-aaaaaaaaaaaaaaaaaaaa", [], [])
    before = sorted((path, path.stat().st_mtime_ns) for path in store.root.rglob("*") if path.is_file())

    Store.open(store.root)

    assert sorted((path, path.stat().st_mtime_ns) for path in store.root.rglob("*") if path.is_file()) == before


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert Store.open(Path("here")).root == tmp_path / "here"


def test_a_root_that_may_not_be_made_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreDenied, match="/sys/imagecache"):
        Store.open(Path("/sys/imagecache"))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        Store.open(tmp_path / "file")


def test_usage_is_by_kind(store: Store) -> None:
    put_bundle(store, "imc-aaaaaaaaaaaaaaaaaaaa", [DiffID(Digest.sha256(b"base"))], [b"x" * 100_000])
    with store.downloads.open(Digest.sha256(b"y"), 50_000) as download:
        download.write(b"y" * 50_000)
    usage = store.usage()

    assert usage.layers >= 100_000
    assert usage.downloads >= 50_000
    assert usage.blobs > 0
    assert usage.chains == usage.staging == usage.trash == usage.quarantine == 0
    assert usage.total == usage.layers + usage.downloads + usage.blobs


def test_a_good_place_has_no_faults(store: Store) -> None:
    assert [reason for reason in store.unsuitable() if "a reboot deletes" not in reason] == []
    assert list(store.paths.staging.iterdir()) == []


def test_a_place_in_memory_is_a_fault() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        (reason,) = Store.open(Path(directory) / "store").unsuitable()
    assert "tmpfs: a reboot deletes everything" in reason


def test_a_place_without_hard_links_is_a_fault(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_paths: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)

    assert any("hard links" in reason for reason in store.unsuitable())


def test_a_place_where_locks_do_not_exclude_is_a_fault(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda _fd, _operation: None)

    assert any("flock" in reason for reason in store.unsuitable())


def test_a_readable_root_is_a_fault(store: Store) -> None:
    store.root.chmod(0o755)

    assert any("chmod 0700" in reason for reason in store.unsuitable())


def test_filesystem_type_is_the_kernels_word() -> None:
    assert filesystem_type(Path("/proc")) == "proc"
