"""The mounts that /proc/self/mountinfo lists (proc(5)). It must not mount anything."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    target: str
    kind: str
    """Filesystem type."""
    source: str
    """As given to mount(2): the layer image for a file-backed EROFS, ``/dev/loopN`` for one on a loop device."""
    options: str
    """Of this mount point, comma-separated."""
    data: str
    """Of the filesystem, comma-separated."""


def parse(text: str) -> list[Mount]:
    """In the order they were mounted: the last one at a target hides those before it."""
    return [_mount(line) for line in text.splitlines() if " - " in line]


def _mount(line: str) -> Mount:
    mine, _, filesystem = line.partition(" - ")
    _, _, _, _, target, options, *_ = mine.split(" ")
    kind, source, data = [*filesystem.split(" "), "", ""][:3]
    return Mount(_unescape(target), kind, _unescape(source), options, data)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def mounted_at(target: Path, file: Path = MOUNTINFO) -> Mount | None:
    """The topmost mount at exactly ``target``; None without one."""
    wanted = os.path.realpath(target)
    found = [mount for mount in parse(file.read_text(errors="surrogateescape")) if mount.target == wanted]
    return found[-1] if found else None
