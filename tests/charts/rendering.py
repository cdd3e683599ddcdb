"""What Helm makes of the chart, and kustomize of the bases."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from testkit.peers.programs import cache, environment, find
from tools.install.release import HOOK

CHART = Path(__file__).resolve().parents[2] / "charts" / "imagecache"
KUBERNETES = "1.37.2"
Name = tuple[str, str | None, str]
"""Kind, namespace, name."""


def helm(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    program = find("helm", before=[cache() / "kubernetes" / "bin"])
    return subprocess.run(
        [program, *args], env=environment(), input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def rendered(values: object, *flags: str) -> dict[Name, Any]:
    """What is installed, by kind, namespace and name."""
    return by_name(item for item in whole(values, *flags) if not hooked(item))


def hooked(item: Any) -> bool:
    return HOOK in item["metadata"].get("annotations", {})


def whole(values: object, *flags: str) -> list[Any]:
    done = helm(
        *("template", "imagecache", str(CHART), "--namespace=imagecache-system", "--values=-"),
        *(flags or (f"--kube-version={KUBERNETES}",)),
        stdin=json.dumps(values),
    )
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def by_name(items: Iterable[Any]) -> dict[Name, Any]:
    return {(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): item for item in items}


def kustomized(folder: Path) -> list[Any]:
    kubectl = find("kubectl", before=[cache() / "kubernetes" / "bin"])
    done = subprocess.run(
        [kubectl, "kustomize", folder], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
