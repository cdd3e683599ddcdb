"""Of an object of any kind its metadata alone, for a stream that needs no more of it."""

from __future__ import annotations

import msgspec

from imagecache.match.pod import Metadata


class Bare(msgspec.Struct, frozen=True, gc=False):
    metadata: Metadata = Metadata()

    @property
    def resource_version(self) -> str:
        return self.metadata.resource_version


BARE = msgspec.json.Decoder(Bare)
