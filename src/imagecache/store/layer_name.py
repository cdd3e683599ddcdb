"""Names of layer images in a store. Pure: it must not do I/O."""

from __future__ import annotations

import enum
import re

import msgspec

from imagecache.digest import Digest
from imagecache.errors import InvalidInput

_NAME = re.compile(r"(layers|chains)/(sha256|sha512):([0-9a-f]+)")


class Space(enum.StrEnum):
    """The two key spaces of layer images."""

    LAYERS = "layers"
    """Keyed by diffID: right at any position of any image, so containerd >= 2.4 may use it on its own."""
    CHAINS = "chains"
    """Keyed by chainID: right on top of exactly these layers (implied parents, bottom-layer whiteouts)."""


class LayerName(msgspec.Struct, frozen=True, order=True):
    """Names a layer image in the store; as text ``layers/sha256:<hex>``."""

    space: Space
    digest: Digest

    def __str__(self) -> str:
        return f"{self.space.value}/{self.digest}"

    @property
    def path(self) -> str:
        """Path below the store's root. ``layers/`` is containerd 2.4's own ``layer_content_caches`` layout."""
        digest = self.digest
        return f"{self.space.value}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}.erofs"

    @classmethod
    def parse(cls, text: str) -> LayerName:
        match = _NAME.fullmatch(text)
        if match is None:
            raise InvalidInput(
                f"not a layer name: {text[:160]!r}", hint="expected layers/sha256:<hex> or chains/sha256:<hex>"
            )
        return cls(space=Space(match[1]), digest=Digest(f"{match[2]}:{match[3]}"))
