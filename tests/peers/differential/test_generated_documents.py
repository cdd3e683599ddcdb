"""Images whose documents were changed at random: what both containerds pull we build alike, what both refuse we refuse.

Where one containerd refuses and the other does not, either is right.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from uuid import uuid4

import pytest

from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor
from testkit.oci_layout import Compression, LayerSpec, Layout, host_architecture
from testkit.peers.judge import Judge
from testkit.peers.odd_documents import Document, changed
from testkit.peers.static_registry import Published, publish
from testkit.tars import DIRECTORY, Entry, tar

pytestmark = pytest.mark.peers
SEEDS = range(8)
IMAGES = 8
"""Of each seed."""
COMPRESSIONS: tuple[Compression, ...] = ("gzip", "zstd", "none")


def record(descriptor: Descriptor, architecture: str = "") -> Document:
    plain = {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}
    return {**plain, "platform": {"os": "linux", "architecture": architecture}} if architecture else plain


def image(directory: Path, chance: random.Random) -> tuple[Published, str]:
    """An image with a change in one of its documents, and what it is. No other image has its layers."""
    layout, mark = Layout(directory), uuid4().hex.encode()
    tars = [
        tar(Entry(name, DIRECTORY, mtime=5), Entry(name + b"file", content=mark, mtime=6)) for name in (b"a/", b"b/")
    ]
    layers = [layout.add_layer(LayerSpec(each, chance.choice(COMPRESSIONS))) for each in tars]
    diff_ids = [diff_id for _, diff_id in layers]
    which, what = chance.choice(["config", "manifest", "manifest", "index"]), ""
    config: Document = {
        "created": "2024-01-01T00:00:00Z",
        "author": "a",
        "os": "linux",
        "architecture": host_architecture(),
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"], "Labels": {"a": "b"}, "User": "0", "Volumes": {"/v": {}}},
        "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]},
        "history": [{"created_by": "x", "empty_layer": True}],
    }
    if which == "config":
        config, what = changed(config, chance)
    manifest: Document = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "annotations": {"a": "b"},
        "config": record(layout.add(mediatypes.OCI_CONFIG, json.dumps(config).encode())),
        "layers": [record(blob) for blob, _ in layers],
    }
    if which == "manifest":
        manifest, what = changed(manifest, chance)
    if which != "index" and chance.random() < 0.7:
        return publish(layout, mediatypes.OCI_MANIFEST, manifest, diff_ids), what
    listed = layout.add(mediatypes.OCI_MANIFEST, json.dumps(manifest).encode())
    index: Document = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_INDEX,
        "annotations": {"a": "b"},
        "manifests": [record(listed, host_architecture()), record(listed, "s390x")],
    }
    if which == "index":
        index, what = changed(index, chance)
    return publish(layout, mediatypes.OCI_INDEX, index, diff_ids), what


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_both_containerds_say_we_say(anything: Judge, directory: Path, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(IMAGES):
        odd, what = image(directory / str(number), chance)
        verdict = await anything.compare(odd)
        refusals = [line for line in verdict.differences if line.startswith("only ")]
        assert refusals == verdict.differences, f"{what}: another tree"
        if len(refusals) < len(anything.nodes):
            continue  # they differ from each other
        taken = refusals[0].startswith("only containerd")
        notes = (await anything.build(odd)).notes if taken else ()
        assert any(note.startswith("will not pull") for note in notes), f"{what}: {refusals}"
