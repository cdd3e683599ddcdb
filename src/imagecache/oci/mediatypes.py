"""Media types of images, in both families: OCI's and Docker's.

The sets below decide what is accepted; every other type is refused with the reason. Source: OCI image-spec
media-types.md, Docker's image manifest v2 schema 2, containerd's ``core/images/mediatypes.go``. It must not look at
content.
"""

from __future__ import annotations

from imagecache.errors import UnsupportedMediaType

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
LAYERS = frozenset({OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD})
"""The type does not decide the compression, the first bytes do, as in containerd: old tools gave Docker's uncompressed
type to compressed layers, too."""
RESOLVABLE = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
"""The types that a registry is asked for, in the order of preference."""

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
_FOREIGN = ("application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign.")


def is_index(media_type: str) -> bool:
    return media_type in INDEXES


def is_manifest(media_type: str) -> bool:
    return media_type in MANIFESTS


def check_layer(media_type: str) -> None:
    """Raises UnsupportedMediaType when a layer of this type is not a tar that we can read."""
    if media_type in LAYERS:
        return
    shown = _shown(media_type)
    if "+encrypted" in media_type:
        raise UnsupportedMediaType(
            f"a layer is encrypted ({shown})", hint="push an unencrypted copy of the image; keys are not supported"
        )
    # Their bytes lie at other addresses ("urls"), outside of any registry that we have credentials for.
    if media_type.startswith(_FOREIGN):
        raise UnsupportedMediaType(
            f"a layer is foreign ({shown}): its bytes are not in the registry",
            hint="push the image again with its layers included (such layers occur in Windows base images)",
        )
    raise UnsupportedMediaType(
        f"a layer of type {shown} is not a tar archive", hint="layers are tar, tar+gzip or tar+zstd, of OCI or Docker"
    )


def check_config(media_type: str) -> None:
    """Raises UnsupportedMediaType when a manifest with this config type is not a container image."""
    if media_type not in CONFIGS:
        raise UnsupportedMediaType(
            f"the manifest is an artifact with a config of type {_shown(media_type)}, not a container image",
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
    raise UnsupportedMediaType(f"{_shown(media_type)} is neither an image index nor an image manifest")


def _shown(media_type: str) -> str:
    return media_type[:127] or "no type"
