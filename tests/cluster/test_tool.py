"""``./dev cluster`` for people: up, what it says, down; killed at any moment it starts again; nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.cluster import cgroups, network
from testkit.cluster.cluster import clean
from testkit.peers.processes import kill_all, mounts_below, processes_of, wait_until
from testkit.peers.programs import checkout, run
from testkit.peers.workspace import workspace

pytestmark = pytest.mark.peers


class Tool:
    """The command with a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._words = [sys.executable, str(checkout() / "tools" / "cluster.py")]
        self._env = {**os.environ, "IMAGECACHE_CLUSTER": str(directory)}

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._words, *args], env=self._env, capture_output=True, text=True, timeout=100, check=False
        )

    def told(self, text: str, last: str) -> str:
        """Output of the commands that ``up`` tells people, as far as they end, and of one more."""
        whole = text.replace("\\\n", "").splitlines()  # a command may go on in the next line
        lines = [line.strip() for line in whole if line.startswith("  ") and "./dev" not in line]
        script = [line for line in lines if line.startswith(("export", "helm", "kubectl -n", "kubectl create"))]
        assert len(script) == 4, text
        words = ["sh", "-euc", "\n".join([*script, last])]
        return subprocess.run(words, cwd=checkout(), capture_output=True, text=True, timeout=180, check=True).stdout

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._words, *args], env=self._env, stderr=subprocess.DEVNULL)


@pytest.fixture
def tool() -> Iterator[Tool]:
    with workspace() as directory:
        made = Tool(directory / "cluster")
        yield made
        clean(made.directory)


def kill_everything(tool: Tool) -> None:
    kill_all(lambda: processes_of(tool.directory), "the cluster's processes", seconds=30)


def left(tool: Tool, number: int) -> list[str]:
    """What is left of the cluster, whose network had this number, in words."""
    network_of_it = network.Network(number)
    if network.existing().get(network_of_it, tool.directory) != tool.directory:
        return []  # another cluster of this machine has the number by now, which it could not if it were not free
    found = [str(path) for path in Path("/sys/class/net").glob(f"ic{number}-*")]
    found += [f"/sys/class/net/{network_of_it.bridge}"]
    found += [str(root / network_of_it.cgroup) for root in cgroups.hierarchies()]
    routes = run(["ip", "-4", "route", "show", "table", "all"]).splitlines()
    return [path for path in found if Path(path).exists()] + [line for line in routes if f"10.{number}." in line]


def number_of(tool: Tool) -> int:
    (found,) = [found.number for found, owner in network.existing().items() if owner == tool.directory]
    return found


@pytest.mark.timeout(300)
def test_up_kubectl_and_down_that_leaves_nothing(tool: Tool) -> None:
    up = tool.run("up", "--nodes", "1")
    assert up.returncode == 0, up.stderr
    assert "node-1   Ready" in up.stdout
    number = number_of(tool)
    assert left(tool, number), "there is something to look for"
    again = tool.run("up", "--nodes", "1")
    assert (again.returncode, "is running already" in again.stderr) == (0, True)
    assert tool.run("kubectl", "get", "nodes", "--output=name").stdout == "node/node-1\n"
    assert tool.run("kubectl", "get", "nodes", "no-such-node").returncode == 1
    assert "condition met" in tool.told(up.stderr, "kubectl wait --for=condition=Ready imagecache/imagecache-sample")
    down = tool.run("down")
    assert down.returncode == 0, down.stderr
    assert not tool.directory.exists()
    assert not processes_of(tool.directory)
    assert not mounts_below(tool.directory)
    assert left(tool, number) == []
    assert "./dev cluster up" in tool.run("kubectl", "get", "nodes").stderr
    assert tool.run("down").returncode == 0, "a second one has nothing to do"


def test_up_after_everything_was_killed(tool: Tool) -> None:
    starting = tool.start("up", "--nodes", "1")
    assert wait_until((tool.directory / "control" / "kube-scheduler.pid").exists, seconds=60)
    starting.send_signal(signal.SIGKILL)  # in the middle of its work: daemons, mounts and a bridge are there
    starting.wait()
    number = number_of(tool)
    kill_everything(tool)
    up = tool.run("up", "--nodes", "1")
    assert up.returncode == 0, up.stderr
    assert "node-1   Ready" in up.stdout
    assert left(tool, number) == [] or number_of(tool) == number, "what the killed one had is free, or used again"
    number = number_of(tool)
    kill_everything(tool)  # also of a cluster that was complete, with its containers
    assert tool.run("down").returncode == 0
    assert not tool.directory.exists()
    assert left(tool, number) == []
