"""What stays of proxy mode's Pod: its probe, its files, and the agent that takes them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from imagecache.agent.keeper import Keeper
from imagecache.agent.pod_credentials import HandedOver
from imagecache.host.pod_directory import KEEPER, LEAVE, POD, PodDirectory
from imagecache.host.service_files import CREDENTIALS, HostFiles
from imagecache.settings.table import Settings
from imagecache.telemetry.health import HealthServer
from imagecache.telemetry.metrics import Metrics

IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def account(tmp_path: Path) -> Path:
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def files(tmp_path: Path) -> HostFiles:
    found = HostFiles(tmp_path / "host")
    PodDirectory(found.root).make()
    return found


async def after_a_look(keeper: Keeper, health: str = "") -> str:
    """Its problem then; it waits for ever after that."""
    looked = asyncio.Event()

    async def sleep(seconds: float) -> None:
        del seconds
        looked.set()
        await asyncio.Event().wait()

    keeper.sleep = sleep
    running = asyncio.ensure_future(keeper.run(health))
    await asyncio.wait_for(looked.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return keeper.problem


def opened(files: HostFiles, account: Path, environ: Mapping[str, str] = IN_CLUSTER, address: str = "") -> Keeper:
    return Keeper(Settings(metrics_address=address), environ, files, account=account)


async def test_it_is_ready_when_the_host_s_agent_is(files: HostFiles, account: Path) -> None:
    health = HealthServer(Metrics(), ready=lambda: "containerd does not answer")
    host, port = await health.start("127.0.0.1:0")
    try:
        assert "containerd does not answer" in await after_a_look(opened(files, account, address=f"{host}:{port}"))
    finally:
        await health.stop()
    assert "does not answer" in await after_a_look(opened(files, account, address=f"{host}:{port}"))
    assert await after_a_look(opened(files, account)) == ""


async def test_it_is_not_ready_while_it_cannot_hand_over(files: HostFiles, account: Path) -> None:
    (account / "token").write_bytes(b"secret\xff")
    problem = await after_a_look(opened(files, account))

    assert "token cannot be read" in problem
    assert "secret" not in problem


async def test_it_writes_into_its_directory_alone(files: HostFiles, account: Path) -> None:
    await after_a_look(opened(files, account))

    assert [path.relative_to(files.root) for path in files.root.rglob("*") if path.is_file()] == [
        (POD / "token").relative_to("/")
    ]


async def test_a_host_that_has_taken_the_directory_back_has_heard(files: HostFiles, account: Path) -> None:
    keeper = opened(files, account)

    async def sleep(seconds: float) -> None:
        del seconds
        files.at(POD).parent.chmod(0o700)
        os.seteuid(KEEPER)

    keeper.sleep = sleep
    try:
        assert await keeper.ask_to_leave()
    finally:
        os.seteuid(0)
    assert files.at(POD / LEAVE).exists(), "it could not see"


async def test_it_asks_again_when_it_could_not_ask(files: HostFiles, account: Path) -> None:
    """Nobody else does: the node would stay for ever."""
    keeper = opened(files, account)
    files.at(POD).rename(files.at(POD).with_name("away"))
    looks = 0

    async def sleep(seconds: float) -> None:
        nonlocal looks
        del seconds
        looks += 1
        if looks == 3:
            files.at(POD).unlink()
            files.at(POD).with_name("away").rename(files.at(POD))
        elif looks == 5:
            PodDirectory(files.root).forget_request()

    keeper.sleep = sleep
    files.at(POD).write_text("in the way")
    assert await keeper.ask_to_leave()


async def test_a_port_that_is_taken_keeps_no_token_from_the_host(files: HostFiles, account: Path) -> None:
    taken = HealthServer(Metrics())
    host, port = await taken.start("127.0.0.1:0")
    try:
        assert await after_a_look(opened(files, account), f"{host}:{port}") == ""
    finally:
        await taken.stop()
    assert (files.at(POD) / "token").exists()


async def test_the_agent_goes_on_taking_what_it_may(files: HostFiles) -> None:
    """A file that is refused is told once, and ends nothing."""
    files.make_private(CREDENTIALS)
    files.write(CREDENTIALS / "kubeconfig", "of the installer", 0o600)
    token = files.at(POD) / "token"
    looks = 0

    async def sleep(seconds: float) -> None:
        nonlocal looks
        del seconds
        looks += 1
        token.unlink(missing_ok=True)
        if looks == 1:
            token.symlink_to("/etc/passwd")
        elif looks == 3:
            token.write_text("fresh")
            os.chown(token, KEEPER, KEEPER)
        elif looks == 4:
            raise asyncio.CancelledError

    handed = HandedOver(files, PodDirectory(files.root), has_store=False)
    with pytest.raises(asyncio.CancelledError):
        await handed.follow(sleep)
    assert files.at(CREDENTIALS / "token").read_text() == "fresh"
    assert files.at(CREDENTIALS / "kubeconfig").read_text() == "of the installer"
