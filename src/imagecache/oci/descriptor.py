"""Descriptor and Platform, the two types that all other documents consist of.

Source: OCI image-spec v1.1 descriptor.md and image-index.md. Unknown fields are ignored when read, and digests are
checked while decoding. It must not do I/O.
"""

from __future__ import annotations

from typing import Any

import msgspec

from imagecache.digest import Digest


def decode_hook(kind: type, value: Any) -> Any:
    """The ``dec_hook`` of msgspec for documents that hold digests."""
    if isinstance(kind, type) and issubclass(kind, Digest):
        return Digest(value)
    raise NotImplementedError(kind)  # msgspec's convention for "not one of mine"


def encode_hook(value: object) -> str:
    """The ``enc_hook`` of msgspec for documents that hold digests."""
    if isinstance(value, Digest):
        return str(value)
    raise NotImplementedError(type(value))


class Platform(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an image runs on, in Go's names (GOOS, GOARCH)."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    """Names content by type, digest and size (bytes)."""

    media_type: str
    digest: Digest
    size: int
    annotations: dict[str, str] = {}
    urls: tuple[str, ...] = ()
    platform: Platform | None = None
    artifact_type: str = ""
