"""What reading, locking, watching and changing files does."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from .questions import PROBE, WORK, code, output, question, started

_EVENTS = {0x2: "modified", 0x4: "attributes changed", 0x100: "created", 0x200: "deleted"}
"""linux/inotify.h."""


@question("before", "reading", "open(2) with O_DIRECT, and read")
def direct_read() -> str:
    return _direct(os.O_DIRECT)


@question("before", "reading", "O_DIRECT by fcntl(2) on an open file, and read")
def direct_read_later() -> str:
    return _direct(0)


@question("before", "reading", "copy_file_range(2) from a file of the image to a new one")
def copied_range() -> str:
    with (PROBE / "direct").open("rb") as source, (WORK / "range").open("wb") as target:
        return _copied(os.copy_file_range(source.fileno(), target.fileno(), 65536))


@question("before", "reading", "sendfile(2) from a file of the image to a new one")
def sent() -> str:
    with (PROBE / "direct").open("rb") as source, (WORK / "sent").open("wb") as target:
        return _copied(os.sendfile(target.fileno(), source.fileno(), 0, 65536))


# locks and watches


@question("before", "locks and watches", "flock(2) of another process")
def flock() -> str:
    path = PROBE / "locked"
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        free = code("flock", "--nonblock", path, "true") == 0
    return "is not seen" if free else "excludes"


@question("before", "locks and watches", "fcntl(2) lock of another process")
def record_lock() -> str:
    path = PROBE / "locked"
    program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        free = code(sys.executable, "-c", program, path) == 0
    return "is not seen" if free else "excludes"


@question("before", "locks and watches", "a read lease (F_SETLEASE)")
def lease() -> str:
    with (PROBE / "leased").open("rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    return "works"


@question("before", "locks and watches", "inotify(7) of a file that is written for the first time")
def watched_file() -> str:
    path = PROBE / "watched"

    def write() -> None:
        with path.open("ab") as file:
            file.write(b"new\n")

    return _events(path, write)


@question("before", "locks and watches", "inotify(7) of a directory that gets a file")
def watched_directory() -> str:
    return _events(PROBE / "watched-folder", (PROBE / "watched-folder" / "new").touch)


# changes


@question("before", "changes", "a file that was open for reading before it was written for the first time")
def read_before() -> str:
    path = PROBE / "read"
    with path.open("rb", buffering=0) as reader:
        path.write_bytes(b"new\n")
        return f"has the {reader.read(3).decode()} content"


@question("before", "changes", "a shared mapping that was made before")
def mapped_before() -> str:
    path = PROBE / "mapped"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ) as mapped:
        _write_over(path)
        return f"has the {mapped[:3].decode()} content"


@question("before", "changes", "what is written through a shared mapping")
def written_mapping() -> str:
    path = PROBE / "mapped"
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as mapped:
        mapped[:3] = b"mew"
        seen = output("head", "--bytes=3", path) == "mew"
    return "is seen by another process" if seen else "is not seen"


@question("before", "changes", "the other hard link of a file that is written")
def written_link() -> str:
    with (PROBE / "written-link-1").open("r+b") as file:
        file.write(b"new")
    return f"has the {(PROBE / 'written-link-2').read_text()[:3]} content"


@question("before", "changes", "rename(2) of a file of the image")
def renamed_file() -> str:
    (PROBE / "renamed").rename(PROBE / "renamed-2")
    return "works"


@question("before", "changes", "rename(2) of a directory of the image")
def renamed_directory() -> str:
    (PROBE / "folder").rename(PROBE / "folder-2")
    return "works"


@question("before", "changes", "mv of a directory of the image")
def moved_directory() -> str:
    output("mv", PROBE / "moved", PROBE / "moved-2")
    return "works" if (PROBE / "moved-2" / "inside").exists() else "loses files"


@question("before", "changes", "link(2) to a file of the image")
def new_link() -> str:
    os.link(PROBE / "linked", PROBE / "linked-2")
    return f"works, `st_nlink` {(PROBE / 'linked').stat().st_nlink}"


@question("before", "changes", "a new directory in place of one of the image")
def replaced_directory() -> str:
    shutil.rmtree(PROBE / "replaced")
    (PROBE / "replaced").mkdir()
    return "is empty" if not list((PROBE / "replaced").iterdir()) else "shows the old one's files"


@question("before", "changes", "writing to a program that runs")
def written_program() -> str:
    with started(PROBE / "busybox-running", "sleep", "60", user=0), (PROBE / "busybox-running").open("r+b"):
        return "works"


@question("before", "changes", "O_TMPFILE")
def unnamed_file() -> str:
    os.close(os.open(PROBE, os.O_TMPFILE | os.O_RDWR))
    return "works"


def _direct(flag: int) -> str:
    descriptor = os.open(PROBE / "direct", os.O_RDONLY | flag)
    try:
        if not flag:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_DIRECT)
        with mmap.mmap(-1, 4096) as page:  # at a page's start, as direct reads need it
            os.preadv(descriptor, [page], 0)
            return "works" if page[:16] == b"0123456789abcdef" else "reads something else"
    finally:
        os.close(descriptor)


def _copied(count: int) -> str:
    return "works" if count == 65536 else f"{count} bytes"


def _write_over(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"new")


def _events(path: Path, act: Callable[[], None]) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(path), sum(_EVENTS)) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    act()
    data, seen = os.read(descriptor, 65536), set()
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        seen.add(_EVENTS.get(mask, str(mask)))
        data = data[16 + length :]
    os.close(descriptor)
    return ", ".join(sorted(seen))
