"""The document that a reference resolves to.

It is here, and not with the port that returns it, because the implementation of the port is upstream of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class Resolved:
    """An index or manifest, verified."""

    descriptor: Descriptor
    body: bytes
    private: bool
    """The user's credential was needed. An anonymous token does not count: anyone gets one."""
    typed: bool = True
    """The registry named the type of the document; else it was found in the document, as containerd does not do."""
