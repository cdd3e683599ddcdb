"""A Kubernetes cluster on this machine for people: ``./dev cluster up``, ``kubectl``, ``down``. See docs/cluster.md."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from testkit.cluster.chart import ChartSite
from testkit.cluster.cluster import Cluster, clean, kubectl_command
from testkit.cluster.network import NODES
from testkit.cluster.node import NodeSpec
from testkit.cluster.programs import kubernetes
from testkit.images import busybox_image
from testkit.peers.programs import MissingPeer, PeerFailed

DIRECTORY = Path(os.environ.get("IMAGECACHE_CLUSTER", "/tmp/imagecache-cluster"))  # noqa: S108 - sockets need a short path
HELP = """\
The cluster is in {directory}. Ready in {seconds:.0f} s.
  ./dev cluster kubectl get nodes
  {directory}/nodes/node-1/enter systemctl status containerd
  ./dev cluster down
With helm and kubectl of the cluster:
  export KUBECONFIG={kubeconfig} PATH={programs}:$PATH
  helm install imagecache charts/imagecache --namespace imagecache-system --create-namespace \\
    --set 'insecureRegistries={{{registries}}}'
  kubectl -n imagecache-system rollout status deployment/imagecache-controller daemonset/imagecache-agent
  kubectl create -f {manifest}
  kubectl get imagecache -o wide -w
  kubectl run hello --image {busybox} -- /bin/sh -c 'while true; do echo hello; sleep 1; done'
"""
MANIFEST = """\
apiVersion: eci.alibabacloud.com/v1
kind: ImageCache
metadata:
  name: imagecache-sample
  annotations:
    k8s.aliyun.com/plain-http-registry: {registry}
spec:
  images:
  - {busybox}
"""


def say(text: str) -> None:
    print(text, end="", file=sys.stderr)  # noqa: T201


def kubectl(*args: str) -> int:
    """This terminal's kubectl; its exit code."""
    if not (DIRECTORY / "kubeconfig").exists():
        say("there is no cluster: ./dev cluster up makes one\n")
        return 1
    words, env = kubectl_command(DIRECTORY, *args)
    return subprocess.call(words, env={**os.environ, **env})


def running() -> bool:
    """Whether the API server answers; a cluster that does not is made again."""
    words, env = kubectl_command(DIRECTORY, "--request-timeout=5s", "get", "--raw=/readyz")
    return (DIRECTORY / "kubeconfig").exists() and not subprocess.run(
        words, env=env, capture_output=True, check=False
    ).returncode


def count(text: str) -> int:
    number = int(text)
    if number not in NODES:
        raise argparse.ArgumentTypeError(f"not a number from {NODES[0]} to {NODES[-1]}: {text}")
    return number


def up(nodes: int) -> int:
    if os.geteuid():
        say("a cluster makes namespaces, mounts and interfaces, which needs root\n")
        return 1
    if running():
        say(f"a cluster is running already in {DIRECTORY}; ./dev cluster down ends it\n")
        return 0
    started = time.monotonic()
    cluster = Cluster(DIRECTORY, [NodeSpec("system" if index == 0 else "2.4", systemd=True) for index in range(nodes)])
    cluster.start()
    ChartSite(cluster).start()
    busybox = cluster.registry.push("busybox:1", busybox_image(DIRECTORY / "images" / "busybox"))
    manifest = DIRECTORY / "imagecache.yaml"
    manifest.write_text(MANIFEST.format(registry=cluster.registry.address, busybox=busybox))
    help_text = HELP.format(
        directory=DIRECTORY,
        seconds=time.monotonic() - started,
        kubeconfig=cluster.kubeconfig,
        programs=kubernetes("helm").parent,
        manifest=manifest,
        registries=cluster.registries,
        busybox=busybox,
    )
    say(help_text)
    return kubectl("get", "nodes", "--output=wide")


def down() -> None:
    """A node with many mounts takes seconds, and whoever waits in silence presses Ctrl-C."""
    if not DIRECTORY.exists():
        say(f"there is no cluster in {DIRECTORY}\n")
    else:
        say(f"ending the cluster in {DIRECTORY}: up to a minute\n")
    clean(DIRECTORY)


def main(words: list[str]) -> int:
    if words[:1] == ["kubectl"]:  # everything that follows is kubectl's, also what looks like ours
        return kubectl(*words[1:])
    parser = argparse.ArgumentParser(prog="./dev cluster", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start it", allow_abbrev=False).add_argument(
        "--nodes", type=count, default=2, help="how many (default 2)"
    )
    commands.add_parser("down", help="end it and remove all that it has")
    commands.add_parser("kubectl", help="talk to it")
    chosen = parser.parse_args(words)
    try:
        if chosen.command == "up":
            return up(chosen.nodes)
        down()
    except (PeerFailed, MissingPeer) as error:
        say(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
