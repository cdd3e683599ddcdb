"""What a reference points at. Here, and not with its port, because whoever implements the port is upstream of it."""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class Resolved:
    """An index or manifest, verified."""

    descriptor: Descriptor
    body: bytes
    private: bool
    """A credential of the user's was needed (an anonymous token is none)."""
