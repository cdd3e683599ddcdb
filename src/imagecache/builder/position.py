"""What a layer image must be right for: one position in an image, or every position of any image (ADR 2).

It is a parameter of every proof, never something that a file says of itself: a layer image that was made for another
position is sound in itself, and shows containers another tree. Pure.
"""

from __future__ import annotations

import msgspec

from imagecache.erofs.layer_header import LayerFlags
from imagecache.store.bundle_document import PlacedLayer
from imagecache.store.layer_name import Space


class Position(msgspec.Struct, frozen=True):
    everywhere: bool
    """It may be found by its diffID alone (``layers/``), so its tree is the same wherever the layer stands."""
    bottom: bool
    """It stands at the bottom of an image."""

    @property
    def by_bottom_rules(self) -> bool:
        """Its tree is assembled by the rules of the bottom layer (unpack-rules §11)."""
        return self.bottom and not self.everywhere

    @property
    def needs_lowers(self) -> bool:
        """Some attributes in it come from the layers below."""
        return not (self.everywhere or self.bottom)


def position_of(placed: PlacedLayer) -> Position:
    return Position(everywhere=placed.record.name.space is Space.LAYERS, bottom=placed.bottom)


ANYWHERE = Position(everywhere=True, bottom=False)


def is_right_everywhere(flags: LayerFlags, *, bottom: bool) -> bool:
    """Whether a layer with these facts has the same tree at every position, and so at its own.

    At the bottom, whiteouts delete what the layer itself has, where they hide something of the layers below elsewhere.
    """
    return not flags & LayerFlags.IMPLIED and not (bottom and flags & LayerFlags.WHITEOUTS)
