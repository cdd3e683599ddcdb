"""How this process reaches the Kubernetes API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imagecache.errors import InvalidSetting
from imagecache.kube.connection import Connection, in_cluster, kubeconfig
from imagecache.settings.table import Settings


def connection(settings: Settings, environ: Mapping[str, str]) -> Connection:
    """As the setting says; else the Pod's service account; else what kubectl would use. Raises InvalidSetting."""
    if settings.kubeconfig:
        return kubeconfig(Path(settings.kubeconfig))
    found = in_cluster(environ)
    if found is not None:
        return found
    path = Path(environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    if not path.exists():
        raise InvalidSetting(
            f"this is no Pod with a service account, and there is no {path}", hint="name one with --kubeconfig"
        )
    return kubeconfig(path)
