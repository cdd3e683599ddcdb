"""What stat(2) and its kin say, and who has which rights."""

from __future__ import annotations

import fcntl
import os

from .questions import NOBODY, PROBE, SEVERAL, files, folders, output, question, remember, remembered, started

_NET_RAW = 13
"""CAP_NET_RAW of linux/capability.h."""
_GETFLAGS = 0x80086601
"""FS_IOC_GETFLAGS of linux/fs.h, where long has 64 bits."""


def remember_numbers() -> None:
    """Before anything else looks at them."""
    remember("directories", {str(path): path.lstat().st_ino for path in folders(SEVERAL)})
    remember("files", {str(path): path.lstat().st_ino for path in files(SEVERAL)})


@question("before", "what stat(2) says", "`st_dev` of a file and of its directory")
def device_of_files() -> str:
    alike = all(path.lstat().st_dev == path.parent.lstat().st_dev for path in files(SEVERAL))
    return "the same" if alike else "different"


@question("before", "what stat(2) says", "a file looks like a mountpoint (`os.path.ismount`)")
def mountpoint() -> str:
    return "yes" if os.path.ismount(PROBE / "tiny") else "no"


@question("before", "what stat(2) says", "two files have the same number")
def unique_numbers() -> str:
    found = [(status.st_dev, status.st_ino) for status in map(os.lstat, files(SEVERAL)) if status.st_nlink == 1]
    return "no" if len(found) == len(set(found)) else "yes"


@question("before", "what stat(2) says", "bits of inode numbers")
def bits_of_numbers() -> str:
    return "64" if any(path.lstat().st_ino >> 32 for path in files(SEVERAL)) else "32"


@question("before", "what stat(2) says", "number that readdir(3) gives, and `st_ino`")
def number_of_an_entry() -> str:
    with os.scandir(PROBE) as probe, os.scandir("/usr/bin") as programs:
        alike = all(
            entry.inode() == entry.stat(follow_symlinks=False).st_ino for found in (probe, programs) for entry in found
        )
    return "the same" if alike else "different"


@question("before", "what stat(2) says", "number of a file, when it is written for the first time")
def number_of_a_written_file() -> str:
    path = PROBE / "remembered"
    before = path.stat().st_ino
    with path.open("ab") as file:
        file.write(b"new\n")
    after = path.stat().st_ino
    remember("written", after)
    return "stays" if before == after else "changes"


@question(
    "after", "what stat(2) says", "number of a file that was written, when the kernel drops it and reads it again"
)
def number_of_a_written_file_later() -> str:
    return "stays" if remembered("written") == (PROBE / "remembered").stat().st_ino else "changes"


@question("after", "what stat(2) says", "numbers of directories, when the kernel drops them and reads them again")
def numbers_of_directories() -> str:
    return _stay("directories")


@question("after", "what stat(2) says", "numbers of files, when the kernel drops them and reads them again")
def numbers_of_files() -> str:
    return _stay("files")


@question("before", "what stat(2) says", "two hard links of the image")
def hard_links() -> str:
    one, two = (PROBE / "link-1").stat(), (PROBE / "link-2").stat()
    same = (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
    return f"{'one file' if same else 'two files'}, `st_nlink` {one.st_nlink}"


@question("before", "what stat(2) says", "`st_nlink` of a directory with three others in it")
def links_of_a_directory() -> str:
    return str((PROBE / "three").stat().st_nlink)


@question("before", "what stat(2) says", "`st_size` of a directory with three others in it")
def size_of_a_directory() -> str:
    return str((PROBE / "three").stat().st_size)


@question("before", "what stat(2) says", "`st_blksize` of a file")
def block_size() -> str:
    return str((PROBE / "tiny").stat().st_blksize)


@question("before", "what stat(2) says", "`st_blocks` of a file of five bytes")
def blocks() -> str:
    return str((PROBE / "tiny").stat().st_blocks)


@question("before", "what stat(2) says", "nanoseconds of `st_mtime`")
def nanoseconds() -> str:
    return str((PROBE / "tiny").stat().st_mtime_ns % 10**9)


@question("before", "what stat(2) says", "`st_ctime` of a file")
def change_time() -> str:
    status = (PROBE / "tiny").stat()
    return "its `st_mtime`" if status.st_ctime_ns == status.st_mtime_ns else "when it was unpacked"


@question("before", "what stat(2) says", "time of birth of a file (statx(2))")
def birth() -> str:
    return "unknown" if output("stat", "--format=%W", PROBE / "tiny").strip() in {"0", "-"} else "known"


@question("before", "what stat(2) says", "filesystem's type, block size and longest name (statfs(2))")
def filesystem() -> str:
    found = os.statvfs(PROBE)
    return f"{output('stat', '--file-system', '--format=%T', PROBE).strip()}, {found.f_bsize}, {found.f_namemax}"


# attributes and rights


@question("before", "attributes", "xattrs of a file")
def attributes() -> str:
    path = PROBE / "noted"
    # a machine with SELinux adds a name
    names = sorted(name for name in os.listxattr(path) if not name.startswith("security."))
    return ", ".join(f"`{name}={os.getxattr(path, name).decode()}`" for name in names)


@question("before", "attributes", "an xattr set on a directory of the image")
def new_attribute() -> str:
    os.setxattr(PROBE / "noted-folder", "user.new", b"1")
    return "works"


@question("before", "attributes", "POSIX ACL of a file")
def access_list() -> str:
    return "kept" if "system.posix_acl_access" in os.listxattr(PROBE / "acl") else "dropped"


@question("before", "attributes", "a setuid program that another user starts")
def setuid_program() -> str:
    with started("/usr/bin/su", user=NOBODY) as status:
        return "has the owner's rights" if status["Uid"].split()[1] == "0" else "has the user's rights"


@question("before", "attributes", "a program with file capabilities that another user starts")
def capable_program() -> str:
    with started(PROBE / "busybox-capable", "sleep", "60", user=NOBODY) as status:
        return "has them" if int(status["CapEff"], 16) >> _NET_RAW & 1 else "does not have them"


@question("before", "attributes", "flags of a file (lsattr)")
def flags() -> str:
    with (PROBE / "attributes").open("rb") as file:
        fcntl.ioctl(file.fileno(), _GETFLAGS, bytes(8))
    return "works"


def _stay(name: str) -> str:
    numbers = remembered(name)
    if not isinstance(numbers, dict):
        raise TypeError(name)
    return "stay" if all(os.lstat(path).st_ino == number for path, number in numbers.items()) else "change"
