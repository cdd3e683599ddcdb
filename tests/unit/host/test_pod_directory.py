"""The directory that an unprivileged Pod writes: whatever it puts there, root reads nothing else by it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from imagecache.errors import ImageCacheError
from imagecache.host.pod_directory import KEEPER, LEAVE, POD_FILE_BYTES, PodDirectory, PodFileRefused


@pytest.fixture
def pod(tmp_path: Path) -> PodDirectory:
    directory = PodDirectory(tmp_path)
    directory.make()
    return directory


def put(pod: PodDirectory, data: bytes, owner: int = KEEPER) -> Path:
    path = pod.path / "token"
    path.write_bytes(data)
    os.chown(path, owner, owner)
    return path


def refused(pod: PodDirectory, why: str) -> None:
    with pytest.raises(PodFileRefused, match=why):
        pod.read("token")


def test_a_file_of_the_keeper_s(pod: PodDirectory) -> None:
    put(pod, b"text")
    assert pod.read("token") == "text"
    assert pod.read("other") is None


def test_a_symbolic_link_is_not_followed(pod: PodDirectory, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    os.chown(tmp_path / "secret", KEEPER, KEEPER)  # even to what is the keeper's own
    (pod.path / "token").symlink_to(tmp_path / "secret")
    os.chown(pod.path / "token", KEEPER, KEEPER, follow_symlinks=False)
    refused(pod, "no regular file")


def test_a_hard_link_is_nobody_s_own(pod: PodDirectory) -> None:
    os.link(put(pod, b"text"), pod.path / "other")
    refused(pod, "own")


def test_a_file_of_another_owner_is_not_read(pod: PodDirectory) -> None:
    put(pod, b"secret", owner=0)
    refused(pod, "own")


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK])
def test_a_device_or_a_fifo_is_not_even_opened(pod: PodDirectory, kind: int) -> None:
    """An open waits at a FIFO for its other end, and may do anything to a device."""
    os.mknod(pod.path / "token", 0o600 | kind, os.makedev(1, 3))
    os.chown(pod.path / "token", KEEPER, KEEPER)
    found: list[str] = []

    def read() -> None:
        try:
            pod.read("token")
        except PodFileRefused as error:
            found.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert ["no regular file" in text for text in found] == [True]


def test_a_directory_and_a_socket_are_no_files(pod: PodDirectory) -> None:
    (pod.path / "token").mkdir()
    refused(pod, "no regular file")
    (pod.path / "token").rmdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(pod.path / "token"))
        refused(pod, "no regular file")


def test_a_huge_file_is_not_read(pod: PodDirectory) -> None:
    os.truncate(put(pod, b""), 1 << 40)
    refused(pod, "larger than")
    put(pod, b"a" * POD_FILE_BYTES)
    assert len(pod.read("token") or "") == POD_FILE_BYTES


def test_what_is_no_text_is_not_taken(pod: PodDirectory) -> None:
    put(pod, b"\xff")
    refused(pod, "no text")


def test_a_directory_that_is_a_link_is_not_entered(tmp_path: Path) -> None:
    """Root alone can write beside it; should it be one all the same, its target is left alone."""
    pod = PodDirectory(tmp_path)
    (tmp_path / "etc").mkdir(mode=0o755)
    pod.path.parent.mkdir(parents=True)
    pod.path.symlink_to(tmp_path / "etc")
    (tmp_path / "etc" / LEAVE).touch()
    with pytest.raises(ImageCacheError):
        pod.make()
    with pytest.raises(ImageCacheError):
        pod.read(LEAVE)
    pod.forget_request()
    pod.remove()

    assert (tmp_path / "etc").stat().st_uid == 0
    assert (tmp_path / "etc" / LEAVE).exists()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_request_of_any_kind_is_one(pod: PodDirectory, tmp_path: Path, kind: str) -> None:
    """A file is removed when it was heard. Whoever makes anything else there waits for that in vain."""
    request, kept = pod.path / LEAVE, tmp_path / "kept"
    (kept / "below").mkdir(parents=True)
    assert not pod.asks()
    if kind == "file":
        request.touch()
    elif kind == "directory":
        request.mkdir()
        (request / "link").symlink_to(kept)
    else:
        request.symlink_to(kept / "nowhere")
    assert pod.asks()
    pod.forget_request()

    assert os.path.lexists(request) is (kind == "directory")
    assert (kept / "below").is_dir()


def test_a_tree_of_any_depth_ends_nothing(pod: PodDirectory) -> None:
    """Where no filesystem is mounted there: it stays for a person, and no token is taken from it."""
    descriptor = os.open(pod.path, os.O_RDONLY)
    for name in (LEAVE, *["d"] * 2000):
        os.mkdir(name, dir_fd=descriptor)
        descriptor, above = os.open(name, os.O_RDONLY, dir_fd=descriptor), descriptor
        os.close(above)
    os.close(descriptor)
    pod.forget_request()
    with pytest.raises(ImageCacheError, match="cannot be emptied"):
        pod.make()
    pod.remove()
    subprocess.run(["rm", "-rf", pod.path], check=True)


def test_a_lease_of_the_keeper_s_holds_nobody_up(pod: PodDirectory) -> None:
    """An open would wait for /proc/sys/fs/lease-break-time, 45 s."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with put(pod, b"text").open("r+b") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            refused(pod, "lease")
    finally:
        signal.signal(signal.SIGIO, before)


def test_an_install_takes_away_whatever_was_planted(pod: PodDirectory, tmp_path: Path) -> None:
    (tmp_path / "kept" / "below").mkdir(parents=True)
    (pod.path / "token").symlink_to("/etc/passwd")
    (pod.path / "deep").mkdir()
    (pod.path / "deep" / "link").symlink_to(tmp_path / "kept")
    pod.make()

    assert list(pod.path.iterdir()) == []
    assert (tmp_path / "kept" / "below").is_dir()
    assert Path("/etc/passwd").exists()


def test_what_is_removed_is_the_directory_alone(pod: PodDirectory, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (pod.path / "link").symlink_to(tmp_path / "kept")
    (pod.path / "deep").mkdir()
    (pod.path / "deep" / "link").symlink_to(tmp_path / "kept")
    pod.remove()

    assert not pod.path.exists()
    assert (tmp_path / "kept" / "file").exists()
