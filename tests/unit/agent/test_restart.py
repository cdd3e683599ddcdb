"""The loop is started again: after errors and bugs, and when the kubeconfig is another one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from imagecache.agent.restart import keep_running, until_replaced
from imagecache.errors import KubernetesUnavailable
from imagecache.file_version import file_version


async def test_errors_and_bugs_end_nothing() -> None:
    runs = 0
    again = asyncio.Event()

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise KubernetesUnavailable("no answer")
        if runs == 2:
            raise RuntimeError("a bug")
        if runs == 4:
            again.set()

    task = asyncio.create_task(keep_running(run, pause=0))
    async with asyncio.timeout(5):
        await again.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failure_while_it_ends_does_not_start_it_again() -> None:
    started = asyncio.Event()

    async def run() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("cleaning up failed")

    task = asyncio.create_task(keep_running(run, pause=0))
    await started.wait()
    task.cancel()
    with pytest.raises(RuntimeError, match="cleaning up failed"):
        await task


async def test_a_kubeconfig_that_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text("old")
    task = asyncio.create_task(until_replaced(str(file), file_version(file), pause=0))
    for missing in (False, True):  # a missing one is about to be written
        if missing:
            file.unlink()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()

    file.write_text("another one")

    async with asyncio.timeout(5):
        await task


async def test_without_a_kubeconfig_nothing_is_replaced() -> None:
    task = asyncio.create_task(until_replaced("", None, pause=0))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
