"""What an image source says of an image besides its bytes.

It is here, and not with the port that returns it, because the implementation of the port is upstream of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class Resolved:
    """The index or manifest that a reference names, verified."""

    descriptor: Descriptor
    body: bytes
    verified: bool
    """Its digest was in the reference; or it came from a registry whose certificate was verified, or that an
    administrator lists. Everything else of an image is proven by this document."""
    typed: bool = True
    """The registry named the type of the document; else it was found in the document, as containerd does not do."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may read an image."""

    private: bool
    """The user's credential was needed for something. An anonymous token does not count: anyone gets one."""
    note: str = ""
    """Why it counts as private although nobody knows, for people."""
