"""Indexes, manifests and image configs as Go declares them: every field that it knows, also those of no use here.

Go refuses a document in which one of them has the wrong type, and takes anything in fields that it does not know.
Source: image-spec v1.1.1 ``specs-go/v1``; containerd ``core/images/image.go`` (unknownDocument). It must not check
values.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any

import msgspec

from imagecache.digest import DiffID, Digest
from imagecache.errors import InvalidDigest, MalformedDocument
from imagecache.go_values import Integer, Time, check_moment
from imagecache.oci.descriptor import Descriptor, Platform

_LINE_BREAKS = {ord("\n"): None, ord("\r"): None}
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class AnyDescriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A descriptor whose values may be wrong, since containerd looks at them only when it uses it."""

    media_type: str = ""
    digest: str = ""
    size: Integer = 0
    annotations: dict[str, str] = {}
    urls: tuple[str, ...] = ()
    data: str | tuple[_Byte, ...] = ""
    """Go's ``[]byte``: base64, in which it passes over line breaks, or numbers."""
    platform: Platform | None = None
    artifact_type: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.data, str):
            base64.b64decode(self.data.translate(_LINE_BREAKS), validate=True)

    @property
    def known_digest(self) -> Digest | None:
        """None when it is not valid."""
        try:
            return Digest(self.digest)
        except InvalidDigest:
            return None

    def checked(self) -> Descriptor:
        """To be used. Raises MalformedDocument when the digest is not one."""
        try:
            digest = Digest(self.digest)
        except InvalidDigest as error:
            raise MalformedDocument(error.message) from error
        return Descriptor(
            media_type=self.media_type,
            digest=digest,
            size=self.size,
            annotations=self.annotations,
            urls=self.urls,
            platform=self.platform,
            artifact_type=self.artifact_type,
        )


class Shape(msgspec.Struct, rename="camel"):
    """What a document has, whatever it is; ``null`` counts as something, as for Go's RawMessage."""

    media_type: str = ""
    schema_version: Integer = 0
    config: Any = msgspec.UNSET
    layers: Any = msgspec.UNSET
    manifests: Any = msgspec.UNSET
    fs_layers: Any = msgspec.UNSET


class IndexShape(msgspec.Struct, rename="camel"):
    artifact_type: str = ""
    manifests: tuple[AnyDescriptor, ...] = ()
    subject: AnyDescriptor | None = None
    annotations: dict[str, str] = {}


class ManifestShape(msgspec.Struct, rename="camel"):
    artifact_type: str = ""
    config: AnyDescriptor | None = None
    layers: tuple[AnyDescriptor, ...] = ()
    subject: AnyDescriptor | None = None
    annotations: dict[str, str] = {}


class Nothing(msgspec.Struct, frozen=True):
    """Go's ``struct{}``: an object, with anything in it."""


class Runtime(msgspec.Struct, frozen=True, rename="pascal"):
    """How a container is started."""

    user: str = ""
    exposed_ports: dict[str, Nothing] = {}
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: dict[str, Nothing] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    args_escaped: bool = False


class RootFS(msgspec.Struct, frozen=True):
    type: str = ""
    diff_ids: tuple[DiffID, ...] = ()


class History(msgspec.Struct, frozen=True):
    created: Time = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    def __post_init__(self) -> None:
        check_moment(self.created)


class ConfigShape(msgspec.Struct):
    created: Time = ""
    author: str = ""
    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    config: Runtime = Runtime()
    rootfs: RootFS = RootFS()
    history: tuple[History, ...] = ()

    def __post_init__(self) -> None:
        check_moment(self.created)
