"""What the demos on a cluster print: sentences, command lines, and the commands' own output."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from testkit.cluster.cluster import Cluster, kubectl_command
from testkit.peers.agent import COMMAND


def say(text: str) -> None:
    sys.stdout.write(f"\n\033[1m{text}\033[0m\n" if sys.stdout.isatty() else f"\n{text}\n")
    sys.stdout.flush()


def show(cluster: Cluster, command: str) -> None:
    """A kubectl command line and its own output."""
    words, env = kubectl_command(cluster.directory, *command.split())
    _run(f"kubectl {command}", words, env)


def show_ours(cluster: Cluster, command: str) -> None:
    """A command line of ``imagecache``, as the cluster's administrator."""
    _, env = kubectl_command(cluster.directory)  # KUBECONFIG is what both read
    _run(f"imagecache {command}", [str(COMMAND), *command.split()], env)


def _run(shown: str, words: Sequence[str], env: Mapping[str, str]) -> None:
    say(f"$ {shown}")
    subprocess.run(words, env={**os.environ, **env}, timeout=120, check=True)
