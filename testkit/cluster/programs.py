"""Where programs are that nodes of a cluster run, beside those of every node of the tests.

Kubernetes: the directory in KUBEBUILDER_ASSETS, else the build of ``./dev cluster``.
"""

from __future__ import annotations

import os
from pathlib import Path

from testkit.peers.programs import MissingPeer, cache, find

_RUNC = """\
version = 3
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    BinaryName = "{program}"
"""


def kubernetes(name: str) -> Path:
    """A program of Kubernetes, or etcd. Raises MissingPeer."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return find(name, before=[*([Path(assets)] if assets else []), cache() / "kubernetes" / "bin"])


def newer_runc() -> str:
    """A drop-in with which a containerd 2.4 runs pods with user namespaces: Debian 12's runc is too old for kubelet.

    Raises MissingPeer.
    """
    program = cache() / "peers" / "runc" / "bin" / "runc"
    if not program.exists():
        raise MissingPeer(f"{program} is not there: run ./dev peers, which builds it")
    return _RUNC.format(program=program.resolve())
