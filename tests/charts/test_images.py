"""Which image runs: the one that a digest names, in every container, whatever is behind its tag."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from imagecache import __version__
from testkit.peers.programs import cache, environment, find
from tests.charts.rendering import CHART, KUBERNETES, helm, kustomized
from tools.install.render import MODES

RELEASE = CHART.parents[1] / "docs" / "release.md"
IMAGE = re.compile(r"^ +(?:- )?image: \"?([^\"\n]+)\"?$", re.MULTILINE)
DIGEST = f"sha256:{64 * 'b'}"
_LINES = re.MULTILINE | re.DOTALL
BY_DIGEST = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
- {base}
images:
- name: ghcr.io/imagecache/imagecache
  newName: registry.example.com/team/imagecache
  digest: {digest}
"""


@pytest.mark.parametrize("mode", MODES)
def test_every_container_has_the_image_by_its_digest(mode: str) -> None:
    """The Job of ``helm uninstall`` too. Runtimes read the digest and pass the tag over."""
    flags = (f"--set=mode={mode}", "--set=image.tag=1.2.3", f"--set=image.digest={DIGEST}")
    done = helm("template", "imagecache", str(CHART), f"--kube-version={KUBERNETES}", *flags)
    images = IMAGE.findall(done.stdout)

    assert len(images) == done.stdout.count("imagePullPolicy:") > 2, done.stderr
    assert set(images) == {f"ghcr.io/imagecache/imagecache:1.2.3@{DIGEST}"}


@pytest.mark.parametrize("mode", MODES)
def test_kustomize_with_the_image_by_its_digest(mode: str, tmp_path: Path) -> None:
    base = os.path.relpath(CHART.parents[1] / "config" / mode, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(BY_DIGEST.format(base=base, digest=DIGEST))
    found = [item for item in kustomized(tmp_path) if item["kind"] != "CustomResourceDefinition"]
    text = yaml.safe_dump_all(found)
    images = IMAGE.findall(text)

    assert len(images) == text.count("imagePullPolicy:") > 1
    assert set(images) == {f"registry.example.com/team/imagecache@{DIGEST}"}


def test_the_chart_of_a_release_has_the_digest(tmp_path: Path) -> None:
    """Packaged by the lines of docs/release.md, and installed without a value."""
    (lines,) = re.findall(
        r"^ +(cp -r charts/imagecache/\. dist/chart\n.*?)^ +helm template", RELEASE.read_text(), _LINES
    )
    (tmp_path / "charts").symlink_to(CHART.parent)
    (tmp_path / "dist").mkdir()
    helm_folder = find("helm", before=[cache() / "kubernetes" / "bin"]).parent
    subprocess.run(
        ["bash", "-euc", lines],
        cwd=tmp_path,
        env={**environment(before=[helm_folder]), "DIGEST": DIGEST},
        capture_output=True,
        timeout=60,
        check=True,
    )
    (package,) = (tmp_path / "dist").glob("*.tgz")
    done = helm("template", "imagecache", str(package), f"--kube-version={KUBERNETES}")

    assert set(IMAGE.findall(done.stdout)) == {f"ghcr.io/imagecache/imagecache:{__version__}@{DIGEST}"}, done.stderr
