"""fs-verity's numbers and structs, as the kernel's headers have them: few kernels here have it at all."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from imagecache.store import verity

HEADER = Path("/usr/include/linux/fsverity.h")
"""Of Debian's linux-libc-dev."""
_WRITE, _READ = 1, 2
"""asm-generic/ioctl.h"""
_SIZES = {"__u8": "B", "__u16": "H", "__u32": "I", "__u64": "Q"}


def layout(name: str) -> str:
    """A struct of the header, in the words of ``struct``; an array without a length takes nothing."""
    (body,) = re.findall(rf"struct {name} {{(.*?)}};", HEADER.read_text(), re.DOTALL)
    fields = re.findall(r"(__u\d+)\s+\w+(\[\d*\])?;", re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL))
    lengths = {"": "", "[]": "0"}
    return "<" + "".join(f"{lengths.get(array, array.strip('[]'))}{_SIZES[kind]}" for kind, array in fields)


def number(name: str, argument: str) -> int:
    """As the header's macro makes it."""
    (found,) = re.findall(rf"#define {name}\s+_IO(W|WR)\('f', (\d+), struct {argument}\)", HEADER.read_text())
    direction = _WRITE | (_READ if found[0] == "WR" else 0)
    size = struct.calcsize(layout(argument))
    return direction << 30 | size << 16 | ord("f") << 8 | int(found[1])


def test_what_seals() -> None:
    assert number("FS_IOC_ENABLE_VERITY", "fsverity_enable_arg") == verity._ENABLE
    assert layout("fsverity_enable_arg") == "<IIIIQIIQ11Q"
    assert struct.calcsize(layout("fsverity_enable_arg")) == verity._ARGUMENT.size
    packed = verity._ARGUMENT.pack(1, 2, 3, 4, 5, 6, 7, 8)
    assert struct.unpack(layout("fsverity_enable_arg"), packed) == (*range(1, 9), *[0] * 11)


def test_what_measures() -> None:
    assert number("FS_IOC_MEASURE_VERITY", "fsverity_digest") == verity._MEASURE
    assert layout("fsverity_digest").startswith("<HH")
    assert verity._DIGEST.pack(1, 32, b"x")[:5] == struct.pack("<HH", 1, 32) + b"x"


def test_the_hash_that_is_asked_for() -> None:
    assert re.search(rf"#define FS_VERITY_HASH_ALG_SHA256\s+{verity._SHA256}\b", HEADER.read_text())
