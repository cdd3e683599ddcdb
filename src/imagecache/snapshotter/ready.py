"""Answers to Mounts that are known already, and may be given while they still hold.

containerd asks three times for the same snapshot while a container starts. What it was told when the snapshot was made
still holds when every layer image below is mounted as it was, which takes one look at each mountpoint: no database and
no lock, so nothing that could make the caller wait. It must not mount anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagecache.snapshotter.mounts import Mount


@dataclass(frozen=True, slots=True)
class Answer:
    mounts: tuple[Mount, ...]
    devices: Mapping[Path, int]
    """Mountpoints of the layer images and the device number that each has while it is mounted."""
    files: Sequence[Path]
    """The layer images, the upper one first; none for who only unpacks."""


class ReadyMounts:
    """By key. Told inside the transactions that make and remove snapshots, so in their order. Thread-safe.

    Nobody asks for the key of a transaction that failed, and the next one with that key replaces the answer.
    """

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}

    def remember(self, key: str, answer: Answer) -> None:
        self._answers[key] = answer

    def forget(self, key: str) -> None:
        self._answers.pop(key, None)

    def get(self, key: str) -> Answer | None:
        """None when somebody has to look closer."""
        answer = self._answers.get(key)
        if answer is None or any(device_of(target) != device for target, device in answer.devices.items()):
            return None
        return answer


def device_of(path: Path) -> int | None:
    """Of what is there; None when nothing is."""
    try:
        return os.stat(path).st_dev  # noqa: PTH116 - half the time of Path.stat, for each layer of each start
    except OSError:
        return None
