"""``imagecache controller --release`` as a process: what a Helm hook runs, without a store or rights to one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.resources import PODS
from imagecache.match.keys import GATE
from testkit.kube import FakeKube
from testkit.kube_server import KubeServer

PROGRAM = "from imagecache.cli.main import main; main()"


def kubeconfig(folder: Path, url: str) -> Path:
    document = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
        "users": [{"name": "u", "user": {}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(document))
    return path


async def released(folder: Path, url: str) -> tuple[int | None, str, str]:
    """Exit code, output and errors."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IMAGECACHE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "controller", "--release", "--kubeconfig", str(kubeconfig(folder, url))),
        *("--store", "/proc/nowhere", "--log-level", "error"),
        env=kept,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), error.decode()


async def test_it_lets_pods_go_and_needs_no_store(tmp_path: Path) -> None:
    held: Object = {"schedulingGates": [{"name": GATE}], "containers": [{"name": "a", "image": "nginx:1.25"}]}
    async with KubeServer(FakeKube()) as server:
        for name in ("a", "b"):
            await server.kube.create(PODS, {"metadata": {"name": name}, "spec": held}, namespace="default")
        first = await released(tmp_path, server.url)
        pods = (await server.kube.list(PODS)).items
        again = await released(tmp_path, server.url)

    assert first == (0, "2 pods let go\n", "")
    assert [objects.at(pod, "spec", "schedulingGates") for pod in pods] == [None, None]
    assert again == (0, "0 pods let go\n", "")


async def test_an_api_server_that_is_away_is_an_error(tmp_path: Path) -> None:
    code, out, error = await released(tmp_path, "http://127.0.0.1:1")

    assert (code, out) == (70, "")
    assert "does not answer" in error
