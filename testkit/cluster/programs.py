"""Where the Kubernetes programs are: the directory in KUBEBUILDER_ASSETS, else the build of ``./dev cluster``."""

from __future__ import annotations

import os
from pathlib import Path

from testkit.peers.programs import cache, find


def kubernetes(name: str) -> Path:
    """A program of Kubernetes, or etcd. Raises MissingPeer."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return find(name, before=[*([Path(assets)] if assets else []), cache() / "kubernetes" / "bin"])
