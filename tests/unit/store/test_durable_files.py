from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagecache.errors import NoSpace, StoreError
from imagecache.store.durable_files import StagedFile, write_all, write_atomic
from imagecache.store.locks import abandoned


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """The kernel refuses longer files, with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_atomic_replaces(tmp_path: Path) -> None:
    path = tmp_path / "document"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o640)

    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_is_private_unless_told(tmp_path: Path) -> None:
    write_atomic(tmp_path / "document", b"x")

    assert stat.S_IMODE((tmp_path / "document").stat().st_mode) == 0o600


def test_a_reader_of_the_old_version_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "document"
    write_atomic(path, b"one")
    with path.open("rb") as reader:
        write_atomic(path, b"two")

        assert reader.read() == b"one"


def test_write_atomic_sets_the_time_it_is_told(tmp_path: Path) -> None:
    write_atomic(tmp_path / "document", b"x", mtime_ns=123_456_789_012)

    assert (tmp_path / "document").stat().st_mtime_ns == 123_456_789_012


def test_a_failed_write_leaves_the_old_version_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "document"
    write_atomic(path, b"old")
    with files_at_most(10), pytest.raises(NoSpace, match="document"):
        write_atomic(path, b"much too long")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_says_which_file_it_could_not_write(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent/document"):
        write_atomic(tmp_path / "absent" / "document", b"x")


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    path = tmp_path / "staging"
    path.mkdir()
    return path


def test_a_staged_file_becomes_visible_whole_and_immutable(tmp_path: Path, staging: Path) -> None:
    target = tmp_path / "ab" / "file"
    with StagedFile(staging) as staged:
        write_all(staged.fd, b"content", 0)
        assert not target.exists()

        assert staged.publish(target)

        assert os.pread(staged.fd, 7, 0) == b"content"
    assert target.read_bytes() == b"content"
    assert stat.S_IMODE(target.stat().st_mode) == 0o400
    assert target.stat().st_nlink == 1
    assert list(staging.iterdir()) == []


def test_the_first_to_publish_wins(tmp_path: Path, staging: Path) -> None:
    target = tmp_path / "ab" / "file"
    with StagedFile(staging) as first, StagedFile(staging) as second:
        write_all(first.fd, b"first", 0)
        write_all(second.fd, b"second", 0)

        assert [first.publish(target), second.publish(target)] == [True, False]

    assert target.read_bytes() == b"first"
    assert list(staging.iterdir()) == []


def test_what_is_not_published_leaves_nothing(staging: Path) -> None:
    with StagedFile(staging) as staged:
        write_all(staged.fd, b"content", 0)

    assert list(staging.iterdir()) == []


def test_a_staged_file_is_locked_as_long_as_its_writer_lives(staging: Path) -> None:
    with StagedFile(staging) as staged, abandoned(staged.path) as free:
        assert not free


def test_a_duplicate_descriptor_keeps_the_lock(staging: Path) -> None:
    staged = StagedFile(staging)
    worker = os.dup(staged.fd)
    os.close(staged.fd)
    with abandoned(staged.path) as free:
        assert not free
    os.close(worker)
    with abandoned(staged.path) as free:
        assert free
