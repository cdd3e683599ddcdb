"""Images in the forms that lazy snapshotters read, made by the programs of tools/bench-go in OCI layouts.

Recording, converting and pushing are separate steps, so that each can be timed. It must not push anything itself but
what it records.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.contender import LONGEST, Site
from bench.contenders.node import IGZIP, containerd_node, program
from testkit.oci_layout import Image, Layout, load
from testkit.peers.programs import environment, run

WORKLOAD = ("python3", "-c", "import numpy")
"""What images are optimized for: what the bench then runs first."""


def record(site: Site, image: Image, workload: Sequence[str], directory: Path) -> Path:
    """Run a command in a container of the image and write which files it touched, one JSON a line, in order.

    As ``ctr-remote image optimize --record-out`` does it, with its analyzer; ``directory`` must not exist.
    """
    name = f"bench/recorded:{image.descriptor.digest.short}"
    reference = site.registry.push(name, image)
    out = directory / "record.json"
    with containerd_node(site, directory, path=[IGZIP]) as containerd:
        hosts = ("--hosts-dir", containerd.directory / "certs.d")
        containerd.ctr("images", "pull", *hosts, reference, seconds=LONGEST)
        flags: list[str | Path] = ["--address", containerd.address, "--image", reference, "--out", out]
        run([program("estargz-record"), *flags, *workload], seconds=LONGEST)
    return out


def recorded_paths(path: Path) -> list[str]:
    """The files of a record, each once, in order, relative to the image's root."""
    return list(dict.fromkeys(json.loads(line)["path"] for line in path.read_text().splitlines()))


def layout_copy(image: Image, directory: Path) -> Image:
    """The image in a layout of its own at ``directory``, which a program may change: its blobs are links."""
    layout = Layout(directory)
    for digest in {image.descriptor.digest, image.config.digest, *(layer.digest for layer in image.layers)}:
        target = layout.directory / "blobs" / digest.algorithm / digest.hex
        try:
            os.link(image.blob(digest), target)
        except OSError:  # another filesystem, or the filesystem has no links
            shutil.copyfile(image.blob(digest), target)
    entry = {
        "mediaType": image.descriptor.media_type,
        "digest": str(image.descriptor.digest),
        "size": image.descriptor.size,
    }
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return load(directory)


def convert(name: str, flags: Sequence[str | Path], layout: Image) -> Image:
    """Convert the image of a layout in place with a program of tools/bench-go; the converted one."""
    env = environment(before=[IGZIP]) | {"TMPDIR": str(layout.directory.parent)}
    run([program(name), *flags, layout.directory], env=env, seconds=LONGEST)
    return load(layout.directory)
