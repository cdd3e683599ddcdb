"""One conversion per layer, one layer image per position, and the size limit of a cache."""

from __future__ import annotations

import pytest

from imagecache.builder.build_plan import plan
from imagecache.builder.layer_builder import name_for
from imagecache.builder.resolve import LayerPosition, ResolvedImage
from imagecache.builder.size_limit import SizeLimit
from imagecache.digest import DiffID, Digest, chain_ids
from imagecache.erofs.layer_header import LayerFlags
from imagecache.errors import ImageTooLarge
from imagecache.oci.descriptor import Descriptor, Platform
from imagecache.oci.reference import Reference
from imagecache.store.layer_name import LayerName, Space

A, B, C = (DiffID(Digest(f"sha256:{n:064x}")) for n in (10, 11, 12))


def blob(diff_id: DiffID, size: int = 100) -> Descriptor:
    return Descriptor(media_type="t", digest=Digest("sha256:" + "f" + diff_id.hex[1:]), size=size)


def image(text: str, *diff_ids: DiffID) -> ResolvedImage:
    chain = chain_ids(diff_ids)
    document = blob(A)
    layers = tuple(
        LayerPosition(diff_id, chain[depth], blob(diff_id, int(diff_id.hex, 16)), tuple(reversed(chain[:depth])))
        for depth, diff_id in enumerate(diff_ids)
    )
    return ResolvedImage(Reference.parse(text), Platform(os="linux"), (), document, document, layers, True, ())


def test_shared_layers_are_one_group_with_all_their_images() -> None:
    groups = plan([image("one", A, B), image("two", A, C)])
    assert [group.diff_id for group in groups] == [C, B, A]  # biggest first
    assert groups[-1].images == ("one", "two")
    assert len(groups[-1].positions) == 1


def test_the_same_layer_on_different_layers_has_two_positions() -> None:
    (group,) = [group for group in plan([image("one", A, B), image("two", C, B)]) if group.diff_id == B]
    assert len(group.positions) == 2
    assert [position.below for position in group.positions] == [chain_ids([A]), chain_ids([C])]


def test_a_layer_repeated_in_one_image() -> None:
    (group,) = plan([image("one", A, A, A)])
    assert [position.bottom for position in group.positions] == [True, False, False]
    assert group.positions[2].below == tuple(reversed(chain_ids([A, A])))


def test_no_layers() -> None:
    assert plan([image("scratch")]) == ()


@pytest.mark.parametrize(
    ("bottom", "flags", "space"),
    [
        (True, LayerFlags.BOTTOM, Space.LAYERS),
        (True, LayerFlags.BOTTOM | LayerFlags.WHITEOUTS, Space.CHAINS),
        (True, LayerFlags.BOTTOM | LayerFlags.IMPLIED, Space.CHAINS),
        (False, LayerFlags(0), Space.LAYERS),
        (False, LayerFlags.WHITEOUTS, Space.LAYERS),
        (False, LayerFlags.IMPLIED, Space.CHAINS),
    ],
)
def test_only_trees_that_are_right_everywhere_are_keyed_by_diff_id(
    bottom: bool, flags: LayerFlags, space: Space
) -> None:
    chain = chain_ids([A]) if bottom else chain_ids([B, A])
    position = LayerPosition(A, chain[-1], blob(A), tuple(reversed(chain[:-1])))
    assert name_for(position, flags) == LayerName(space, A if space is Space.LAYERS else chain[-1])


def test_the_limit_counts_a_layer_once() -> None:
    limit = SizeLimit(100)
    limit.take("layers/a", 60)
    limit.take("layers/a", 60)
    limit.take("layers/b", 40)
    with pytest.raises(ImageTooLarge, match="imageCacheSize"):
        limit.take("layers/c", 1)


def test_what_cannot_fit_compressed_is_refused_before_the_first_byte() -> None:
    with pytest.raises(ImageTooLarge) as caught:
        SizeLimit(15).precheck(plan([image("one", A, B)]))
    assert "spec.imageCacheSize" in caught.value.hint
