"""What the chart needs of a cluster to be installed as it stands.

Our image under the name that it has in the chart, a volume for the store, and names of Services for pods. Clusters of
users have all that. It must not install anything before it is told to.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import imagecache
from testkit.cluster.accounts import NAMESPACE
from testkit.cluster.cluster import Cluster
from testkit.cluster.dns import Names
from testkit.cluster.installed import KIND, REPORTS
from testkit.cluster.programs import kubernetes
from testkit.own_image import own_image
from testkit.peers.programs import PeerFailed

CHART = Path(__file__).resolve().parents[2] / "charts" / "imagecache"
_REGISTRY, _REPOSITORY = "ghcr.io", "imagecache/imagecache"
"""As in the chart's values."""
_VOLUMES = 4
"""One for each installation: a claim that is deleted leaves its volume used."""


@dataclass
class ChartSite:
    """A context manager around a cluster that runs; volumes are below its directory and go with it."""

    cluster: Cluster

    def __post_init__(self) -> None:
        self.names = Names(self.cluster)

    def start(self) -> None:
        """Everything but the chart."""
        self.cluster.registry.push(f"{_REPOSITORY}:{imagecache.__version__}", own_image())
        self.cluster.trust(self.cluster.registry, _REGISTRY)
        for number in range(_VOLUMES):
            volume = self.cluster.directory / "volumes" / str(number)
            volume.mkdir(parents=True)
            volume.chmod(0o777)  # a hostPath volume does not know fsGroup
            self.cluster.apply(_volume(volume))
        self.names.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.names.stop()

    def helm(self, *words: str) -> str:
        """Its output. Raises PeerFailed."""
        environ = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig), "HOME": str(self.cluster.directory)}
        argv = [str(kubernetes("helm")), *words, f"--namespace={NAMESPACE}"]
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=180, check=False)
        if done.returncode:
            raise PeerFailed(f"helm {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def deploy(self, verb: str, *values: str) -> None:
        """``helm install`` or ``upgrade`` with these values of the chart; registries here speak plain HTTP."""
        create = ["--create-namespace"] if verb == "install" else []
        given = (f"insecureRegistries={{{self.cluster.registries}}}", *values)
        self.helm(verb, "imagecache", str(CHART), *create, *(f"--set={each}" for each in given))

    def rolled_out(self, what: str, seconds: int = 180) -> None:
        """Raises PeerFailed."""
        self.cluster.kubectl("rollout", "status", what, f"--namespace={NAMESPACE}", f"--timeout={seconds}s")

    def select(self, *, selected: bool) -> None:
        """All nodes, by the label ``pool``; returns when the agents' Pods are gone, if they are to go."""
        self.cluster.kubectl("label", "nodes", "--all", "--overwrite", "pool=caches" if selected else "pool-")
        pods = ["pods", "--selector=app.kubernetes.io/component=agent", f"--namespace={NAMESPACE}"]
        if not selected:
            self.cluster.kubectl("wait", "--for=delete", *pods, "--timeout=150s")

    def counts(self, cache: str, nodes: int) -> None:
        """Wait until the cache is meant for this many nodes and ready there; only they report. Raises PeerFailed."""
        for count in ("desired", "ready"):
            condition = f"--for=jsonpath={{.status.nodes.{count}}}={nodes}"
            self.cluster.kubectl("wait", condition, f"{KIND}/{cache}", "--timeout=120s")
        reports = self.cluster.kubectl("get", REPORTS, "--output=name").split()
        if len(reports) != nodes:
            raise PeerFailed(f"not {nodes} nodes report, but {reports}")


def _volume(path: Path) -> dict[str, object]:
    spec = {
        "capacity": {"storage": "100Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": str(path)},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"volume-{path.name}"}, "spec": spec}
