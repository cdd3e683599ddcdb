"""What is known already and may be answered at once, as long as it still holds.

While a container starts, containerd has a snapshot made and then asks three times for its mounts. What is below the
snapshot, and what it was told, still hold when every layer image is mounted as it was, which takes one look at each
mountpoint: no database and no lock, so nothing that could make the caller wait. It must not mount anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.snapshotter.model import Lower, Row
from imagecache.snapshotter.mounts import Mount


@dataclass(frozen=True, slots=True)
class Stack:
    """What a snapshot stands on."""

    parent: Row | None
    chain: Sequence[Lower] = ()
    """The committed snapshots, the nearest one first."""
    lowers: Sequence[Path] = ()
    """Their directories."""
    files: Sequence[Path] = ()
    """The layer images among them, the upper one first."""
    devices: Mapping[Path, int] | None = None
    """Mountpoints of the layer images and the device number that each has while it is mounted; None: not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    mounts: tuple[Mount, ...]
    files: Sequence[Path]
    """Layer images that are about to be read, the upper one first; none for who only unpacks."""
    devices: Mapping[Path, int]


class Ready:
    """By name. Thread-safe.

    Answers are told inside the transactions that make and remove snapshots, so in their order; nobody asks for the key
    of a transaction that failed. A stack may be one of a parent that was removed since: whoever uses it compares the
    row's number.
    """

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._stacks: dict[str, Stack] = {}

    def remember(self, key: str, answer: Answer) -> None:
        self._answers[key] = answer

    def remember_stack(self, parent: str, stack: Stack) -> None:
        self._stacks[parent] = stack

    def forget(self, name: str) -> None:
        self._answers.pop(name, None)
        self._stacks.pop(name, None)

    def answer(self, key: str) -> Answer | None:
        """What Mounts was told for the snapshot; None when somebody has to look closer."""
        answer = self._answers.get(key)
        return answer if answer is not None and _mounted(answer.devices) else None

    def stack(self, parent: str) -> Stack | None:
        """What is below a snapshot on this parent; None when somebody has to look closer."""
        stack = self._stacks.get(parent)
        return stack if stack is not None and stack.devices is not None and _mounted(stack.devices) else None


def _mounted(devices: Mapping[Path, int]) -> bool:
    return all(device_of(target) == device for target, device in devices.items())


def device_of(path: Path) -> int | None:
    """Of what is there; None when nothing is."""
    try:
        return os.stat(path).st_dev  # noqa: PTH116 - half the time of Path.stat, for each layer of each start
    except OSError:
        return None
