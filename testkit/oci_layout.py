"""Images as OCI layouts on disk, made by tests: exact bytes, any media types, no tool in between.

A layout is a directory with ``blobs/``, ``oci-layout`` and ``index.json`` (OCI image-spec, image-layout.md), so that
skopeo and umoci read it too. Layers are compressed here with fixed headers: same input, same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import zstandard

from imagecache.digest import DiffID, Digest
from imagecache.oci.descriptor import Descriptor

Compression = Literal["gzip", "zstd", "none"]

_CHUNK = 1 << 20
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_LAYER_TYPES: Mapping[tuple[bool, Compression], str] = {
    (False, "none"): _OCI_LAYER,
    (False, "gzip"): f"{_OCI_LAYER}+gzip",
    (False, "zstd"): f"{_OCI_LAYER}+zstd",
    (True, "none"): "application/vnd.docker.image.rootfs.diff.tar",
    (True, "gzip"): "application/vnd.docker.image.rootfs.diff.tar.gzip",
    (True, "zstd"): "application/vnd.docker.image.rootfs.diff.tar.zstd",
}
_MANIFEST = {
    False: "application/vnd.oci.image.manifest.v1+json",
    True: "application/vnd.docker.distribution.manifest.v2+json",
}
_CONFIG = {
    False: "application/vnd.oci.image.config.v1+json",
    True: "application/vnd.docker.container.image.v1+json",
}
_INDEX = {
    False: "application/vnd.oci.image.index.v1+json",
    True: "application/vnd.docker.distribution.manifest.list.v2+json",
}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def host_architecture() -> str:
    """This machine in GOARCH words."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A layer to make: an uncompressed tar, and how to compress it."""

    tar: bytes | Path
    compression: Compression = "gzip"
    level: int = 1

    def chunks(self) -> Iterator[bytes]:
        if isinstance(self.tar, bytes):
            yield self.tar
            return
        with self.tar.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The image's config."""

    env: tuple[str, ...] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    cmd: tuple[str, ...] = ("/bin/sh",)
    entrypoint: tuple[str, ...] = ()
    user: str = ""
    volumes: tuple[str, ...] = ()
    """Directories that are volumes (VOLUME of a Dockerfile)."""
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = field(default_factory=host_architecture)
    os: str = "linux"


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest or an index in a layout."""

    directory: Path
    descriptor: Descriptor
    """Of the manifest or the index."""

    def blob(self, digest: Digest) -> Path:
        return self.directory / "blobs" / digest.algorithm / digest.hex

    def document(self) -> dict[str, object]:
        loaded: dict[str, object] = json.loads(self.blob(self.descriptor.digest).read_bytes())
        return loaded

    def children(self) -> list[Image]:
        """The manifests of an index; nothing for a manifest."""
        listed = self.document().get("manifests", [])
        assert isinstance(listed, list)
        return [Image(self.directory, _descriptor(item)) for item in listed]

    @property
    def config(self) -> Descriptor:
        return _descriptor(self.document()["config"])

    @property
    def layers(self) -> list[Descriptor]:
        listed = self.document()["layers"]
        assert isinstance(listed, list)
        return [_descriptor(item) for item in listed]

    @property
    def diff_ids(self) -> list[DiffID]:
        config = json.loads(self.blob(self.config.digest).read_bytes())
        return [DiffID(Digest(text)) for text in config["rootfs"]["diff_ids"]]

    @property
    def size(self) -> int:
        """Compressed bytes of the layers of a manifest."""
        return sum(layer.size for layer in self.layers)


def _descriptor(item: object) -> Descriptor:
    assert isinstance(item, dict)
    return Descriptor(media_type=item["mediaType"], digest=Digest(item["digest"]), size=item["size"])


def _record(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


class Layout:
    """A directory that images are added to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def add(self, media_type: str, data: bytes) -> Descriptor:
        digest = Digest.sha256(data)
        path = self.directory / "blobs" / "sha256" / digest.hex
        if not path.exists():
            path.write_bytes(data)
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def add_document(self, media_type: str, document: Mapping[str, object]) -> Descriptor:
        return self.add(media_type, json.dumps(document, separators=(",", ":")).encode())

    def add_layer(self, spec: LayerSpec, *, docker: bool = False) -> tuple[Descriptor, DiffID]:
        """Compress and store a layer, in one pass and little memory."""
        blobs = self.directory / "blobs" / "sha256"
        with tempfile.NamedTemporaryFile(dir=blobs, delete=False) as file:
            diff_id, digest, size = _compress(spec, file)
        Path(file.name).chmod(0o644)
        Path(file.name).rename(blobs / digest.hex)
        media_type = _LAYER_TYPES[docker, spec.compression]
        return Descriptor(media_type=media_type, digest=digest, size=size), diff_id

    def add_image(self, layers: Sequence[LayerSpec], config: ImageConfig, *, docker: bool = False) -> Image:
        stored = [self.add_layer(spec, docker=docker) for spec in layers]
        return self.add_manifest([blob for blob, _ in stored], [diff for _, diff in stored], config, docker=docker)

    def add_manifest(
        self, layers: Sequence[Descriptor], diff_ids: Sequence[DiffID], config: ImageConfig, *, docker: bool = False
    ) -> Image:
        """An image of layers that are already stored."""
        config_blob = self.add_document(_CONFIG[docker], _config_document(config, diff_ids))
        manifest: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST[docker],
            "config": _record(config_blob),
            "layers": [_record(layer) for layer in layers],
        }
        return self._listed(Image(self.directory, self.add_document(_MANIFEST[docker], manifest)))

    def add_index(
        self, images: Sequence[Image], platforms: Sequence[Mapping[str, str]], *, docker: bool = False
    ) -> Image:
        """An index (or Docker manifest list) of images that are in this layout."""
        manifests = [
            {**_record(image.descriptor), "platform": dict(platform)}
            for image, platform in zip(images, platforms, strict=True)
        ]
        document = {"schemaVersion": 2, "mediaType": _INDEX[docker], "manifests": manifests}
        return self._listed(Image(self.directory, self.add_document(_INDEX[docker], document)))

    def _listed(self, image: Image) -> Image:
        """Name the image in index.json, as ``latest``, for tools that read layouts."""
        entry = {**_record(image.descriptor), "annotations": {"org.opencontainers.image.ref.name": "latest"}}
        index = {"schemaVersion": 2, "mediaType": _INDEX[False], "manifests": [entry]}
        (self.directory / "index.json").write_text(json.dumps(index))
        return image


def load(directory: Path) -> Image:
    """The image that was added to the layout last."""
    index = json.loads((directory / "index.json").read_bytes())
    return Image(directory, _descriptor(index["manifests"][0]))


def _config_document(config: ImageConfig, diff_ids: Sequence[DiffID]) -> dict[str, object]:
    process: dict[str, object] = {"Env": list(config.env), "Cmd": list(config.cmd), "Labels": dict(config.labels)}
    if config.entrypoint:
        process["Entrypoint"] = list(config.entrypoint)
    if config.user:
        process["User"] = config.user
    if config.volumes:
        process["Volumes"] = {path: {} for path in config.volumes}
    return {
        "created": "2024-01-01T00:00:00Z",
        "architecture": config.architecture,
        "os": config.os,
        "config": process,
        "rootfs": {"type": "layers", "diff_ids": [str(diff) for diff in diff_ids]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "testkit"} for _ in diff_ids],
    }


def _compress(spec: LayerSpec, out: IO[bytes]) -> tuple[DiffID, Digest, int]:
    """Write the compressed layer to ``out``; returns diffID, digest and compressed size."""
    plain, packed, size = hashlib.sha256(), hashlib.sha256(), 0

    def write(data: bytes) -> None:
        nonlocal size
        packed.update(data)
        size += len(data)
        out.write(data)

    gzip = zlib.compressobj(spec.level, zlib.DEFLATED, 31)  # window bits 31: gzip with an empty header, no time
    zstd = zstandard.ZstdCompressor(level=spec.level).compressobj()
    for chunk in spec.chunks():
        plain.update(chunk)
        match spec.compression:
            case "gzip":
                write(gzip.compress(chunk))
            case "zstd":
                write(zstd.compress(chunk))
            case "none":
                write(chunk)
    if spec.compression != "none":
        write(gzip.flush() if spec.compression == "gzip" else zstd.flush())
    return DiffID(Digest(f"sha256:{plain.hexdigest()}")), Digest(f"sha256:{packed.hexdigest()}"), size
