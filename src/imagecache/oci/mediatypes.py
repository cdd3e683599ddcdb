"""Media types of images, in both families: OCI's and Docker's.

What both containerd 1.6 and 2.4 unpack is accepted; every other type is refused with the reason. Source: OCI image-spec
media-types.md, Docker's image manifest v2 schema 2, containerd's ``core/images/mediatypes.go``. It must not look at
content.
"""

from __future__ import annotations

from imagecache.errors import UnsupportedMediaType
from imagecache.written import printable

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
RESOLVABLE = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
"""The types that a registry is asked for, in the order of preference."""

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
_LEGACY_CONFIG = "application/octet-stream"
"""Of configs that Docker's registry of 2016 gave the wrong type (distribution 1622; containerd
``core/remotes/docker/converter.go``, LegacyConfigMediaType)."""
_SHOWN = 127
"""Characters of a type in a message, as many as a part of a registered one may have (RFC 6838 §4.2)."""
_OCI_LAYERS = "application/vnd.oci.image.layer."
_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
_DOCKER_LAYERS = frozenset(
    {DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, _DOCKER_FOREIGN, f"{_DOCKER_FOREIGN}.gzip"}
)
_OCI_BASES = frozenset({OCI_LAYER, _OCI_FOREIGN})


def is_index(media_type: str) -> bool:
    return media_type in INDEXES


def is_manifest(media_type: str) -> bool:
    return media_type in MANIFESTS


def is_layer(media_type: str) -> bool:
    """Whether containerd counts it among the layers (``IsLayerType``). The rest is no part of the root filesystem."""
    return media_type.startswith(_OCI_LAYERS) or media_type in _DOCKER_LAYERS


def is_foreign(media_type: str) -> bool:
    """A layer that need not be in the registry: its descriptor may name other addresses (``urls``)."""
    return media_type.startswith((_OCI_FOREIGN, _DOCKER_FOREIGN))


def is_decompressed(media_type: str) -> bool:
    """Whether containerd looks for a compression in a layer of this type; then the first bytes decide which it is.

    It takes OCI's other types for what they say, tars without one (``core/images/mediatypes.go``, DiffCompression).
    """
    _, *suffixes = media_type.split("+")
    return media_type in _DOCKER_LAYERS or sorted(suffixes)[-1:] in (["gzip"], ["zstd"])


def check_layer(media_type: str) -> None:
    """Raises UnsupportedMediaType when a layer of this type is not a tar that we can read.

    An unknown suffix of OCI's type means nothing to containerd, but for the one of encrypted layers.
    """
    base, *suffixes = media_type.split("+")
    if "encrypted" in suffixes:
        raise UnsupportedMediaType(
            f"a layer is encrypted ({shown(media_type)})",
            hint="push an unencrypted copy of the image; keys are not supported",
        )
    if media_type not in _DOCKER_LAYERS and base not in _OCI_BASES:
        raise UnsupportedMediaType(
            f"a layer of type {shown(media_type)} is not a tar archive",
            hint="layers are tar, tar+gzip or tar+zstd, of OCI or Docker",
        )


def check_config(media_type: str) -> None:
    """Raises UnsupportedMediaType when a manifest with this config type is not a container image."""
    if media_type == _LEGACY_CONFIG:
        raise UnsupportedMediaType(
            f"the config of the image has the type {_LEGACY_CONFIG}, as an old registry wrote it; containerd replaces"
            " such a manifest by one with another digest when it pulls it",
            hint="pull the image and push it again with a current tool: docker, or skopeo copy",
        )
    if media_type not in CONFIGS:
        raise UnsupportedMediaType(
            f"the manifest is an artifact with a config of type {shown(media_type)}, not a container image",
            hint="name a container image; charts, signatures, models and other artifacts cannot be run",
        )


def check_resolved(media_type: str) -> None:
    """Raises UnsupportedMediaType when the type of a reference's document is neither an index nor a manifest."""
    if media_type in INDEXES or media_type in MANIFESTS:
        return
    if media_type.startswith(_SCHEMA_1):
        raise UnsupportedMediaType(
            "the image has a manifest of schema 1, which containerd no longer supports",
            hint="push the image again with a current tool: docker pull and docker push, or skopeo copy --format oci",
        )
    raise UnsupportedMediaType(f"{shown(media_type)} is neither an image index nor an image manifest")


def shown(media_type: str) -> str:
    """For messages: a foreign text, printable and of bounded length."""
    return printable(media_type, _SHOWN) or "no type"
