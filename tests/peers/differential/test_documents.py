"""Images with documents and layers that the field has: containerd pulls them, we build them, and the trees are equal.

Each is served by a registry without an opinion, since docker-registry takes only some of them.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from imagecache.digest import DiffID, Digest
from imagecache.limits import MIB
from imagecache.oci import mediatypes
from imagecache.oci.descriptor import Descriptor
from testkit.oci_layout import Image, LayerSpec, Layout, host_architecture
from testkit.peers.judge import Judge
from testkit.peers.static_registry import Published, StaticRegistry, publish
from testkit.tars import DIRECTORY, Entry, tar

pytestmark = pytest.mark.peers

OTHER = "s390x"
Document = dict[str, Any]


@dataclass
class Maker:
    """Parts of an image of two layers, changed by a case before they are stored.

    No other image has these layers: whoever has unpacked a layer does not look at it again.
    """

    layout: Layout
    registry: StaticRegistry
    mark: bytes = field(default_factory=lambda: b"%032x" % uuid4().int)

    @property
    def base(self) -> bytes:
        return tar(Entry(b"etc/", DIRECTORY, mtime=5), Entry(b"etc/base", content=self.mark, mtime=6))

    @property
    def app(self) -> bytes:
        return tar(Entry(b"opt/", DIRECTORY, mtime=7), Entry(b"opt/app", content=self.mark, mode=0o755, mtime=8))

    def layer(self, data: bytes, *, compression: str = "gzip", media_type: str = "") -> tuple[Document, DiffID]:
        packed = LayerSpec(data, "zstd" if compression == "zstd" else "none" if compression == "none" else "gzip")
        blob, diff_id = self.layout.add_layer(packed)
        return {**record(blob), **({"mediaType": media_type} if media_type else {})}, diff_id

    def blob(self, media_type: str, data: bytes) -> Document:
        return record(self.layout.add(media_type, data))

    def image(
        self,
        layers: list[tuple[Document, DiffID]] | None = None,
        *,
        config: Document | None = None,
        manifest: Document | None = None,
        descriptor: Document | None = None,
        media_type: str = mediatypes.OCI_MANIFEST,
    ) -> Published:
        """With fields of its config, of its manifest and of the config's descriptor replaced; ABSENT removes one."""
        listed = layers if layers is not None else [self.layer(self.base), self.layer(self.app)]
        diff_ids = [diff_id for _, diff_id in listed]
        body = changed(
            {
                "os": "linux",
                "architecture": host_architecture(),
                "config": {"Cmd": ["/bin/sh"]},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            },
            config,
        )
        stored = {**self.blob(mediatypes.OCI_CONFIG, json.dumps(body).encode()), **(descriptor or {})}
        document = {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_MANIFEST,
            "config": stored,
            "layers": [layer for layer, _ in listed],
        }
        return publish(self.layout, media_type, changed(document, manifest), diff_ids)

    def index(self, *entries: Document, of: Image, **fields: object) -> Published:
        document = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": list(entries), **fields}
        return publish(self.layout, mediatypes.OCI_INDEX, document, of.diff_ids)

    def listed(self, architecture: str = "", *, config: Document | None = None, **fields: object) -> Published:
        """An image with an index that lists nothing else; ``fields`` are those of the entry."""
        image = self.image(config=config)
        return self.index(entry(image, architecture or host_architecture(), **fields), of=image)


ABSENT = object()


def changed(document: Document, fields: Document | None) -> Document:
    return {key: value for key, value in {**document, **(fields or {})}.items() if value is not ABSENT}


def record(descriptor: Descriptor) -> Document:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def entry(image: Image, architecture: str = "", **fields: object) -> Document:
    platform = {"platform": {"os": "linux", "architecture": architecture}} if architecture else {}
    return {**record(image.descriptor), **platform, **fields}


def nested(make: Maker) -> Published:
    """ghcr.io/goauthentik/server: the outer index has an index for each platform, with an attestation."""
    image = make.image()
    attestation = entry(make.image(config={"os": "unknown", "architecture": "unknown"}))
    unknown = {"platform": {"os": "unknown", "architecture": "unknown"}}
    inner = make.index({**attestation, **unknown}, entry(image, host_architecture()), of=image)
    other = make.index(entry(image, OTHER), of=image)
    return make.index(entry(other, OTHER), entry(inner, host_architecture()), of=image)


def wrapped(make: Maker) -> Published:
    """What buildx writes into an OCI layout: an index around the index, without a platform."""
    image = make.image()
    return make.index(entry(make.index(entry(image, host_architecture()), of=image)), of=image)


def bad_neighbours(make: Maker) -> Published:
    image = make.image()
    bad = {"mediaType": "", "digest": "sha256:x", "size": -1, "platform": {"os": "linux", "architecture": OTHER}}
    return make.index(bad, entry(image, host_architecture()), of=image)


def nulls(make: Maker) -> Published:
    empty = {"annotations": None, "urls": None, "artifactType": None, "platform": None, "data": None}
    listed = [({**layer, **empty}, diff_id) for layer, diff_id in (make.layer(make.base), make.layer(make.app))]
    image = make.image(
        listed,
        config={"variant": None, "os.version": None, "os.features": None, "history": None, "created": None},
        manifest={"annotations": None, "subject": None, "artifactType": None, "mediaType": None},
        descriptor=empty,
    )
    platform = {"os": "linux", "architecture": host_architecture(), "variant": None, "os.features": None}
    return make.index(entry(image, platform=platform, annotations=None), of=image, annotations=None)


def capitals(make: Maker) -> Published:
    layers = [make.layer(make.base), make.layer(make.app)]
    config = {"OS": "linux", "Architecture": host_architecture(), "RootFS": {"Diff_IDs": [each for _, each in layers]}}
    body = json.dumps(config).encode()
    document = {
        "SchemaVersion": 2,
        "Config": {key.title(): value for key, value in make.blob(mediatypes.OCI_CONFIG, body).items()},
        "LAYERS": [{key.upper(): value for key, value in layer.items()} for layer, _ in layers],
    }
    return publish(make.layout, mediatypes.OCI_MANIFEST, document, [each for _, each in layers])


def encoded(make: Maker) -> Published:
    image = make.image()
    make.registry.encoded |= {image.config.digest, *(layer.digest for layer in image.layers)}
    return image


def long_window(make: Maker) -> Published:
    """As ``zstd --long=29`` writes it when it does not know the size in advance."""
    return make.image([make.layer(make.base), framed(make, make.app, window_log=29)])


def framed(make: Maker, data: bytes, *, window_log: int) -> tuple[Document, DiffID]:
    """A layer in one zstd frame with one raw block (RFC 8878 §3.1.1)."""
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3]) + (len(data) << 3 | 1).to_bytes(3, "little")
    return make.blob(mediatypes.OCI_LAYER_ZSTD, header + data), DiffID(Digest.sha256(data))


def zeros(make: Maker) -> Published:
    """A lastlog of a large uid."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("lastlog")
        info.size = 100 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    return make.image([make.layer(make.base), make.layer(buffer.getvalue(), compression="zstd")])


def beside_layers(make: Maker) -> Published:
    statement = make.blob("application/vnd.in-toto+json", b'{"_type":"statement"}')
    layers = [make.layer(make.base), make.layer(make.app)]
    return make.image(layers, manifest={"layers": [layers[0][0], statement, layers[1][0]]})


Case = Callable[[Maker], Image]


def deep(make: Maker) -> Published:
    """A field of the config that nobody knows, in 1500 levels."""
    layers = [make.layer(make.base), make.layer(make.app)]
    rootfs = {"type": "layers", "diff_ids": [each for _, each in layers]}
    config = json.dumps({"os": "linux", "architecture": host_architecture(), "rootfs": rootfs}).encode()
    stored = make.blob(mediatypes.OCI_CONFIG, config[:-1] + b', "new": ' + b"[" * 1500 + b"]" * 1500 + b"}")
    return make.image(layers, manifest={"config": stored})


def large_manifest(make: Maker) -> Published:
    image = make.image(manifest={"padding": "x" * (5 * MIB)})
    return make.index(entry(image, host_architecture()), of=image)


def wide(make: Maker) -> Published:
    image = make.image()
    return make.index(*[entry(image, OTHER)] * 1100, entry(image, host_architecture()), of=image)


def five(make: Maker) -> Published:
    image = make.listed()
    for _ in range(4):
        image = make.index(entry(image), of=image)
    return image


def numbers(make: Maker) -> Published:
    layer, diff_id = make.layer(make.base)
    return make.image([({**layer, "data": [1, None]}, diff_id), make.layer(make.app)])


def created(moment: str) -> Case:
    return lambda make: make.image(config={"created": moment})


ALIKE: dict[str, Case] = {
    "an index in an index": nested,
    "an index around an index": wrapped,
    "a broken entry for another machine": bad_neighbours,
    "an artifactType at the entry": lambda make: make.listed(artifactType="application/vnd.example"),
    "null for everything optional": nulls,
    "keys in another case": capitals,
    "a time of seventy digits after the second": created(f"2024-01-01T00:00:00.{'7' * 70}Z"),
    "a zone of 24 hours": created("2024-01-01T1:00:00,5+24:60"),
    "a config of 9 MiB": lambda make: make.image(config={"padding": "x" * (9 * MIB)}),
    "a manifest of 5 MiB in an index": large_manifest,
    "an index of 1101 entries": wide,
    "five indexes inside each other": five,
    "what nobody knows in 1500 levels": deep,
    "data of a descriptor as numbers": numbers,
    "half a surrogate pair in a label": lambda make: make.image(config={"config": {"Labels": {"a": "\ud83d"}}}),
    "no rootfs.type": lambda make: without_type(make, ABSENT),
    "an empty rootfs.type": lambda make: without_type(make, ""),
    "another schemaVersion": lambda make: make.image(manifest={"schemaVersion": 3}),
    "OCI's manifest served as Docker's": lambda make: make.image(media_type=mediatypes.DOCKER_MANIFEST),
    "Docker's config in OCI's manifest": lambda make: make.image(descriptor={"mediaType": mediatypes.DOCKER_CONFIG}),
    "what is no layer beside the layers": beside_layers,
    "a layer without compression beside one with it": lambda make: make.image(
        [make.layer(make.base), make.layer(make.app, compression="none")]
    ),
    "gzip in Docker's type of a tar": lambda make: make.image(
        [make.layer(make.base, media_type=mediatypes.DOCKER_LAYER), make.layer(make.app)]
    ),
    "a suffix that means nothing": lambda make: make.image(
        [make.layer(make.base, compression="none", media_type=f"{mediatypes.OCI_LAYER}+odd"), make.layer(make.app)]
    ),
    "a Content-Encoding that nobody asked for": encoded,
    "a window of 512 MiB": long_window,
    "zeros in zstd": zeros,
    "layers of nothing": lambda make: make.image(
        [
            make.layer(b""),
            make.layer(make.base),
            make.layer(b"", compression="zstd"),
            make.layer(make.app),
            make.layer(b""),
        ]
    ),
    "nothing but a layer of nothing": lambda make: make.image([make.layer(b"")]),
}


def without_type(make: Maker, kind: object) -> Published:
    layers = [make.layer(make.base), make.layer(make.app)]
    rootfs = changed({"type": kind, "diff_ids": [each for _, each in layers]}, None)
    return make.image(layers, config={"rootfs": rootfs})


@pytest.fixture
def maker(directory: Path, static: StaticRegistry) -> Maker:
    return Maker(Layout(directory / "image"), static)


@pytest.mark.parametrize("case", ALIKE)
async def test_both_have_the_same_tree(anything: Judge, maker: Maker, case: str) -> None:
    verdict = await anything.compare(ALIKE[case](maker))
    assert not verdict.differences, "\n".join(verdict.differences)
    assert not verdict.refused


def wider_window(make: Maker) -> Published:
    return make.image([make.layer(make.base), framed(make, make.app, window_log=30)])


def wrong_size(make: Maker) -> Published:
    image = make.image()
    return make.index(entry(image, host_architecture(), size=image.descriptor.size + 1), of=image)


REFUSED: dict[str, Case] = {
    "an empty blob": lambda make: make.image([make.layer(make.base), make.layer(b"", compression="none")]),
    "an empty field of an index in a manifest": lambda make: make.image(manifest={"manifests": None}),
    "a manifest that says it is an index": lambda make: make.image(manifest={"mediaType": mediatypes.OCI_INDEX}),
    "schema 1": lambda make: make.image(manifest={"fsLayers": []}),
    "annotations that are a list": lambda make: make.image(manifest={"annotations": []}),
    "a text for a list in the config": lambda make: make.image(config={"config": {"Env": "A=b"}}),
    "a time that is none": created("yesterday"),
    "a line break after a time": created("2024-01-01T00:00:00Z\n"),
    "a year in Arabic digits": created("\u0662\u0660\u0662\u0664-01-01T00:00:00Z"),
    "a manifest of 5 MiB alone": lambda make: make.image(manifest={"padding": "x" * (5 * MIB)}),
    "a text for a number": lambda make: make.image(descriptor={"size": "5"}),
    "no entry for this machine": lambda make: make.listed(OTHER),
    "an entry that is no image": lambda make: make.listed(mediaType="application/json"),
    "a wrong size in the index": wrong_size,
    "a window of 1 GiB": wider_window,
    "fewer diffIDs than layers": lambda make: make.image(config={"rootfs": {"type": "layers", "diff_ids": []}}),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_both_refuse(anything: Judge, maker: Maker, case: str) -> None:
    verdict = await anything.compare(REFUSED[case](maker))
    assert not verdict.differences, "\n".join(verdict.differences)
    assert verdict.refused


OTHER_MACHINES: dict[str, Case] = {
    "a config for another machine": lambda make: make.listed(config={"architecture": OTHER}),
    "a manifest for another machine alone": lambda make: make.image(config={"architecture": OTHER}),
}


@pytest.mark.parametrize("case", OTHER_MACHINES)
async def test_the_index_decides_for_which_machine(anything: Judge, maker: Maker, case: str) -> None:
    image = OTHER_MACHINES[case](maker)
    verdict = await anything.compare(image)
    assert not verdict.differences, "\n".join(verdict.differences)
    assert not verdict.refused
    (note,) = (await anything.build(image)).notes
    assert note.startswith(f"its config says linux/{OTHER}, and nodes of ")


MORE: dict[str, tuple[Case, str]] = {
    "gzip in a layer that says it is none": (
        lambda make: make.image([make.layer(make.base, media_type=mediatypes.OCI_LAYER), make.layer(make.app)]),
        "will not pull without the cache: layer",
    ),
    "a manifest without its type": (
        lambda make: make.image(media_type="application/json"),
        "will not pull without the cache: the registry's Content-Type",
    ),
}


@pytest.mark.parametrize("case", MORE)
async def test_what_we_alone_take_is_noted(anything: Judge, maker: Maker, case: str) -> None:
    make, note = MORE[case]
    image = make(maker)
    verdict = await anything.compare(image)
    assert [line for line in verdict.differences if not line.startswith("only containerd")] == []
    assert len(verdict.differences) == len(anything.nodes)
    (found,) = (await anything.build(image)).notes
    assert found.startswith(note)


ALSO = {"amd64": "i386", "arm64": "arm"}
"""Of each machine one more that it can be, in 1.6's eyes."""

ONLY_1_6: dict[str, tuple[Case, str]] = {
    "an entry for a machine that this one can be": (
        lambda make: make.listed(ALSO[host_architecture()]),
        "its index has it for linux/",
    ),
    "os.features in the config": (
        lambda make: make.image(config={"os.features": ["f"]}),
        "its config says linux(+f)/",
    ),
}


@pytest.mark.parametrize("case", ONLY_1_6)
async def test_what_2_4_does_not_pull_is_noted(anything: Judge, maker: Maker, case: str) -> None:
    make, why = ONLY_1_6[case]
    image = make(maker)
    (difference,) = (await anything.compare(image)).differences
    assert difference.startswith(f"only containerd {anything.nodes[-1].version} refuses")
    assert (
        (await anything.build(image)).notes[-1].startswith(f"will not pull without the cache by containerd 2.4: {why}")
    )


async def test_a_type_that_1_6_does_not_know_is_noted(anything: Judge, maker: Maker) -> None:
    app = maker.layer(maker.app, compression="zstd", media_type=mediatypes.DOCKER_LAYER_ZSTD)
    image = maker.image([maker.layer(maker.base), app])
    (difference,) = (await anything.compare(image)).differences
    assert difference.startswith(f"only containerd {anything.nodes[0].version} refuses")
    (note,) = (await anything.build(image)).notes
    assert note.startswith("will not pull without the cache by containerd 1.6")
