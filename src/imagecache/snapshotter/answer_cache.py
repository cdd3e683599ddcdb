"""A cache of answers, each given only while it still holds.

While a container starts, containerd prepares a snapshot and then asks three times for its mounts. The mounts, and what
the snapshot stands on, still hold while every layer image is mounted as it was. That takes one stat(2) of each
mountpoint and no database and no lock, so nothing that could block the caller. It must not mount anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.snapshotter.mounts import Mount
from imagecache.snapshotter.snapshot import Lower, Row


@dataclass(frozen=True, slots=True)
class Stack:
    """What a snapshot stands on."""

    parent: Row | None
    chain: Sequence[Lower] = ()
    """The committed snapshots, the nearest one first."""
    lowers: Sequence[Path] = ()
    """Their directories."""
    files: Sequence[Path] = ()
    """The layer images among them, the uppermost first."""
    devices: Mapping[Path, int] | None = None
    """Mountpoints of the layer images, and the device number of each while it is mounted; None: not known."""
    version: object = None
    """``LayerMounts.version`` that they were mounted for."""


@dataclass(frozen=True, slots=True)
class MountsAnswer:
    mounts: tuple[Mount, ...]
    files: Sequence[Path]
    """Layer images that a container is about to read, the uppermost first; none for an unpack."""
    devices: Mapping[Path, int]


class AnswerCache:
    """By name. Thread-safe: each method is one operation on a dict.

    ``remember`` and ``forget`` are called inside the transactions that make and remove snapshots, and so in their
    order. When such a transaction fails, nobody asks for its key. The stack of a parent that was removed since may be
    returned: the caller compares the row's number inside its transaction.
    """

    def __init__(self) -> None:
        self._answers: dict[str, MountsAnswer] = {}
        self._stacks: dict[str, Stack] = {}

    def remember(self, key: str, answer: MountsAnswer) -> None:
        self._answers[key] = answer

    def remember_stack(self, parent: str, stack: Stack) -> None:
        self._stacks[parent] = stack

    def forget(self, name: str) -> None:
        self._answers.pop(name, None)
        self._stacks.pop(name, None)

    def mounts(self, key: str) -> MountsAnswer | None:
        """The mounts of a snapshot; None when they are unknown, or may not hold any longer."""
        answer = self._answers.get(key)
        return answer if answer is not None and _mounted(answer.devices) else None

    def stack(self, parent: str, version: object) -> Stack | None:
        """What a snapshot on this parent stands on; None when it is unknown, or may not hold any longer."""
        stack = self._stacks.get(parent)
        if stack is None or stack.devices is None or stack.version != version:
            return None
        return stack if _mounted(stack.devices) else None


def _mounted(devices: Mapping[Path, int]) -> bool:
    return all(device_of(target) == device for target, device in devices.items())


def device_of(path: Path) -> int | None:
    """The device number of a file; None when it does not exist."""
    try:
        return os.stat(path).st_dev  # noqa: PTH116 - half the time of Path.stat, for each layer of each start
    except OSError:
        return None
