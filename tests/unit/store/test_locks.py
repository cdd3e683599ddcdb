from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from imagecache.errors import StoreBusy, StoreError
from imagecache.store.locks import FileLock, abandoned, locked, open_locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_exclusive_excludes_everybody(path: Path) -> None:
    with locked(path):
        with pytest.raises(StoreBusy, match="lock"):
            open_locked(path, wait=False)
        with pytest.raises(StoreBusy):
            open_locked(path, shared=True, wait=False)
    with locked(path, wait=False):
        pass


def test_shared_locks_go_together_and_exclude_exclusive(path: Path) -> None:
    with locked(path, shared=True), locked(path, shared=True, wait=False), pytest.raises(StoreBusy):
        open_locked(path, wait=False)


def test_a_lock_that_cannot_be_opened_is_an_error_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent"), locked(tmp_path / "absent" / "lock"):
        raise AssertionError


def test_a_symlink_is_never_followed(tmp_path: Path, path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StoreError), locked(path):
        raise AssertionError
    assert not (tmp_path / "elsewhere").exists()


def test_who_waited_for_a_removed_file_locks_the_new_one(path: Path) -> None:
    first = open_locked(path)
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.append(open_locked(path)))
    waiter.start()
    path.unlink()
    os.close(first)
    waiter.join()

    assert os.fstat(got[0]).st_ino == path.stat().st_ino
    with abandoned(path) as free:
        assert not free
    os.close(got[0])


def test_abandoned_locks_what_it_reports(path: Path) -> None:
    path.touch()
    with abandoned(path) as free:
        assert free
        with pytest.raises(StoreBusy):
            open_locked(path, wait=False)


def test_what_is_gone_is_not_abandoned(path: Path) -> None:
    with abandoned(path) as free:
        assert not free
    assert not path.exists()


def test_a_file_lock_waits_for_its_turn(path: Path) -> None:
    order: list[str] = []

    def work() -> None:
        with FileLock(path):
            order.append("second")

    with FileLock(path):
        waiter = threading.Thread(target=work)
        waiter.start()
        assert not FileLock(path).try_acquire()
        order.append("first")
    waiter.join()

    assert order == ["first", "second"]


def test_a_wait_can_be_called_off(path: Path) -> None:
    waiting = FileLock(path)
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            waiting.acquire()
        except StoreBusy as error:
            outcome.append(error)

    with FileLock(path):
        waiter = threading.Thread(target=wait)
        waiter.start()
        waiting.release()
        waiter.join()

    assert len(outcome) == 1
    with FileLock(path):
        pass


def test_release_is_idempotent(path: Path) -> None:
    lock = FileLock(path)
    lock.acquire()
    lock.release()
    lock.release()

    assert FileLock(path).try_acquire()


def test_a_note_replaces_the_one_before(path: Path) -> None:
    with FileLock(path) as lock:
        lock.note("a long first word")
        lock.note("second")

        assert path.read_text() == "second"


def test_a_note_stays_until_the_next_holders(path: Path) -> None:
    with FileLock(path) as lock:
        lock.note("first")
    assert path.read_text() == "first"

    with FileLock(path) as lock:
        assert path.read_text() == "first"
        lock.note("2")
    assert path.read_text() == "2"
