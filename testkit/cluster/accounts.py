"""Identities for our own programs outside of Pods: ServiceAccount tokens from the API server, as kubelet projects them.

What they may do is RBAC's business, which is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testkit.cluster.cluster import Cluster
from testkit.cluster.credentials import write_kubeconfig
from testkit.cluster.node import Node

NAMESPACE = "imagecache-system"
STORE_AUDIENCE = "imagecache"
_DAY = "24h"


@dataclass(frozen=True, slots=True)
class Identity:
    """Files, readable on every node under the same path."""

    kubeconfig: Path
    """For the API server, with a token for it."""
    store_token: Path
    """For the served store: of the audience ``imagecache``, good for nothing else."""
    ca: Path
    """Of the API server and of what ``credentials.issue`` made."""


def create_account(cluster: Cluster, name: str, namespace: str = NAMESPACE) -> None:
    """The ServiceAccount and its namespace, when they are not there."""
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}},
    )


def identity(cluster: Cluster, name: str, namespace: str = NAMESPACE, *, node: Node | None = None) -> Identity:
    """Tokens of the ServiceAccount ``name``; with ``node`` they name it, as those of its Pods do, and end with it."""
    files = cluster.directory / "accounts" / "-".join([namespace, name, *([node.name] if node else [])])
    files.mkdir(parents=True, exist_ok=True, mode=0o700)
    bound = ["--bound-object-kind=Node", f"--bound-object-name={node.name}"] if node else []
    request = ["create", "token", name, f"--namespace={namespace}", f"--duration={_DAY}", *bound]
    made = Identity(files / "kubeconfig", files / "store-token", cluster.credentials.ca)
    made.store_token.write_text(cluster.kubectl(*request, f"--audience={STORE_AUDIENCE}").strip())
    (files / "token").write_text(cluster.kubectl(*request).strip())
    write_kubeconfig(cluster.credentials, made.kubeconfig, {"tokenFile": "token"})
    return made
