"""Content digests and the ids derived from them.

Digests are a type, never plain text, so that a compressed layer's digest, its diffID and its chainID cannot be mixed up
and no path is ever built from unchecked text. Source: OCI image-spec, descriptor.md "Digests" and config.md
"Layer DiffID" and "Layer ChainID". It must not do I/O.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NewType, Self

from imagecache.errors import InvalidDigest

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_SYNTAX = re.compile(r"(sha256|sha512):([0-9a-f]+)")


class Digest(str):
    """``algorithm:hex``, checked. Algorithms: sha256 and sha512 (the registered ones of OCI)."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        # lowercase alone: OCI says so, and two spellings of one digest would be two paths
        match = _SYNTAX.fullmatch(text)
        if match is None or len(match[2]) != _HEX_LENGTH[match[1]]:
            raise InvalidDigest(f"not a digest: {text[:160]!r}", hint="expected sha256:<64 lowercase hex digits>")
        return super().__new__(cls, text)

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """The first 12 hex digits, for display."""
        return self.hex[:12]

    @classmethod
    def sha256(cls, data: bytes) -> Digest:
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    def matches(self, data: bytes) -> bool:
        return hashlib.new(self.algorithm, data).hexdigest() == self.hex


DiffID = NewType("DiffID", Digest)
"""Digest of a layer's uncompressed tar."""

ChainID = NewType("ChainID", Digest)
"""Digest that names a layer together with every layer below it."""


def chain_id(parent: ChainID | None, diff_id: DiffID) -> ChainID:
    """ChainID of ``diff_id`` on top of ``parent``; the bottom layer's chainID is its diffID."""
    if parent is None:
        return ChainID(diff_id)
    return ChainID(Digest.sha256(f"{parent} {diff_id}".encode()))


def chain_ids(diff_ids: Iterable[DiffID]) -> tuple[ChainID, ...]:
    """ChainIDs of a whole image, bottom layer first."""
    chain: list[ChainID] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return tuple(chain)
