import asyncio
from collections.abc import Iterable
from pathlib import Path

from imagecache.clock import SystemClock
from imagecache.containerd.api import ContainerRecord, SnapshotInfo, TaskStarted
from imagecache.containerd.native import SOURCE_LABEL
from imagecache.host.page_cache_trim import Trimmer, TrimPlan, drop_second_copy, follow_starts
from testkit.clock import FakeClock
from testkit.containerd import MemoryContainerd

A, B = Path("/store/a.erofs"), Path("/store/b.erofs")


def test_a_file_is_due_once_its_delay_has_passed() -> None:
    clock = FakeClock()
    plan = TrimPlan(10, clock)
    plan.add([A])
    clock.advance(4)
    plan.add([B])
    assert plan.take() == []
    assert plan.wait() == 6
    clock.advance(6)
    assert plan.take() == [A]
    clock.advance(4)
    assert plan.take() == [B]
    assert plan.wait() is None


def test_many_starts_in_a_row_cost_one_trim_and_a_last_one() -> None:
    clock = FakeClock()
    plan = TrimPlan(10, clock)
    trims = 0
    for _ in range(20):  # a container per second
        plan.add([A])
        clock.advance(1)
        trims += len(plan.take())
    assert trims == 2
    clock.advance(10)
    assert plan.take() == [A]
    assert plan.take() == []


def test_only_the_first_file_is_worth_waking_up_for() -> None:
    clock = FakeClock()
    plan = TrimPlan(10, clock)
    assert [plan.add([A]), plan.add([B])] == [True, False]
    clock.advance(10)
    plan.take()
    assert plan.add([B])


async def test_the_task_trims_what_another_thread_names() -> None:
    dropped: asyncio.Queue[Path] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def drop(file: Path) -> None:
        loop.call_soon_threadsafe(dropped.put_nowait, file)

    trimmer = Trimmer(0.001, SystemClock(), drop)
    trimmer.used([B])  # before it runs
    task = asyncio.create_task(trimmer.run())
    assert await dropped.get() == B
    await asyncio.to_thread(trimmer.used, [A])
    assert await dropped.get() == A
    task.cancel()


async def test_a_delay_of_zero_turns_it_off() -> None:
    dropped: list[Path] = []
    trimmer = Trimmer(0, SystemClock(), dropped.append)
    trimmer.used([A])
    task = asyncio.create_task(trimmer.run())
    await asyncio.sleep(0)
    task.cancel()
    assert dropped == []


def test_what_is_no_layer_image_or_is_gone_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "layer"
    file.write_bytes(b"x" * 8192)
    drop_second_copy(file)
    assert file.read_bytes() == b"x" * 8192
    drop_second_copy(tmp_path / "gone")


async def test_container_starts_are_followed_through_a_restart_of_containerd() -> None:
    containerd = MemoryContainerd("2.4.2")
    containerd.session("k8s.io")
    space = containerd.spaces["k8s.io"]
    space.containers["c"] = ContainerRecord("c", "erofs", "writable")
    space.containers["other"] = ContainerRecord("other", "overlayfs", "writable")
    containerd.snapshotters["erofs"] = containerd.snapshotters["overlayfs"]
    for info in (
        SnapshotInfo("writable", "top", {}),
        SnapshotInfo("top", "base", {SOURCE_LABEL: str(A)}),
        SnapshotInfo("base", "", {SOURCE_LABEL: str(B)}),
    ):
        space.committed["erofs", info.name] = info
    seen: asyncio.Queue[list[Path]] = asyncio.Queue()

    def used(files: Iterable[Path]) -> None:
        seen.put_nowait(list(files))

    task = asyncio.create_task(follow_starts(containerd, used, pause=0, retry=0))
    for name in ("c", "gone", "other", None):
        containerd.starts.put_nowait(TaskStarted("k8s.io", name) if name else None)
    assert await seen.get() == [A, B]
    containerd.starts.put_nowait(TaskStarted("k8s.io", "c"))
    assert await seen.get() == [A, B]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen.empty()
