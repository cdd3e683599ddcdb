"""What every ``snapshotter.dependencies.Mounter`` must do: the kernel's, and fakes.

Subclass ``MounterSuite`` and give it a ``bench`` fixture: a mounter, and layer images that it can mount.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagecache.errors import MountFailed
from imagecache.snapshotter.dependencies import Mounter


@dataclass
class Bench:
    mounter: Mounter
    image: Path
    other: Path
    """Another layer image."""
    directory: Path
    """For mount points."""


class MounterSuite:
    @pytest.fixture
    def bench(self) -> Bench:
        raise NotImplementedError

    def test_mount_and_unmount(self, bench: Bench) -> None:
        target = bench.directory / "1"
        assert not bench.mounter.mounted(target)
        bench.mounter.mount(bench.image, target)
        assert bench.mounter.mounted(target)
        bench.mounter.unmount(target)
        assert not bench.mounter.mounted(target)

    def test_both_are_idempotent(self, bench: Bench) -> None:
        target = bench.directory / "1"
        bench.mounter.unmount(target)
        bench.mounter.mount(bench.image, target)
        bench.mounter.mount(bench.image, target)
        bench.mounter.unmount(target)
        assert not bench.mounter.mounted(target)
        bench.mounter.unmount(target)

    def test_the_same_image_at_two_places(self, bench: Bench) -> None:
        first, second = bench.directory / "1", bench.directory / "2"
        bench.mounter.mount(bench.image, first)
        bench.mounter.mount(bench.image, second)
        bench.mounter.unmount(first)
        assert bench.mounter.mounted(second)
        bench.mounter.unmount(second)

    def test_another_image_is_not_put_on_top(self, bench: Bench) -> None:
        target = bench.directory / "1"
        bench.mounter.mount(bench.image, target)
        with pytest.raises(MountFailed):
            bench.mounter.mount(bench.other, target)
        bench.mounter.unmount(target)
        bench.mounter.mount(bench.other, target)
        bench.mounter.unmount(target)

    def test_an_image_that_is_not_there(self, bench: Bench) -> None:
        target = bench.directory / "1"
        with pytest.raises(MountFailed, match=r"gone\.erofs"):
            bench.mounter.mount(bench.directory / "gone.erofs", target)
        assert not bench.mounter.mounted(target)

    def test_many_threads_make_one_mount(self, bench: Bench) -> None:
        target = bench.directory / "1"
        errors: list[Exception] = []

        def mount() -> None:
            try:
                bench.mounter.mount(bench.image, target)
            except Exception as error:  # noqa: BLE001 - whatever a thread met, the test reports
                errors.append(error)

        threads = [threading.Thread(target=mount) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        bench.mounter.unmount(target)
        assert not bench.mounter.mounted(target)
