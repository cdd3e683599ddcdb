"""``check --deep`` on a store that somebody else has written to: it proves with the parameters of a node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from imagecache.apps.check import check
from imagecache.digest import Digest
from imagecache.erofs.layer_header import DATA_START
from imagecache.settings.table import Settings
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.clock import FakeClock
from testkit.images import tar_of
from testkit.store import put_layer
from tests.unit.fetch.origin import Origin
from tests.unit.fetch.test_bundle import BASE, ID, OTHER
from tests.unit.fetch.test_lying_store import IMPLIED, OPEN, UPPER, remade


def problems(root: Path) -> list[tuple[Path, str]]:
    report = check(Settings(store=root), FakeClock(), deep=True, quarantine=False)
    return [(each.path, each.problem) for each in report.corrupt]


async def test_layers_of_every_position(tmp_path: Path) -> None:
    """At the bottom with whiteouts, above them, on implied parents: each is proven for where it stands."""
    origin = Origin(tmp_path / "store")
    await origin.build(ID, BASE, UPPER, IMPLIED)
    await origin.build(OTHER, UPPER, tar_of({"own": b"own"}))

    assert problems(origin.root) == []


@pytest.mark.parametrize(
    ("tar", "bottom", "lower"),
    [(UPPER, True, []), (IMPLIED, False, [OPEN]), (IMPLIED, True, [])],
    ids=["bottom-form", "attributes-of-others", "bottom-form-in-chains"],
)
async def test_a_layer_image_that_is_sound_elsewhere(
    tmp_path: Path, tar: bytes, bottom: bool, lower: Sequence[bytes]
) -> None:
    """Whoever writes to the store has changed the document too, so that no digest tells."""
    origin = Origin(tmp_path / "store")
    document = await origin.build(ID, BASE, tar)
    store = Store(origin.root)
    layer = document.images[0].layers[1]
    evil = remade(store.layers.path(layer.name).read_bytes(), layer, tmp_path, bottom=bottom, lower=lower)
    store.bundles.delete(ID)
    store.layers.path(layer.name).unlink()
    put_layer(store, layer.name, evil)
    lie = msgspec.structs.replace(layer, size=len(evil), digest=Digest.sha256(evil[DATA_START:] + evil[:DATA_START]))
    image = msgspec.structs.replace(document.images[0], layers=(document.images[0].layers[0], lie))
    store.bundles.put(msgspec.structs.replace(document, images=(image,)))

    ((path, problem),) = problems(origin.root)

    assert path == store.layers.path(layer.name)
    assert "layer image" in problem


async def test_a_layer_image_in_the_wrong_space(tmp_path: Path) -> None:
    """No bundle names it: containerd would find it by its diffID all the same (native mode)."""
    origin = Origin(tmp_path / "store")
    document = await origin.build(ID, BASE, IMPLIED)
    store = Store(origin.root)
    layer = document.images[0].layers[1]
    name = LayerName(Space.LAYERS, layer.diff_id)
    put_layer(store, name, store.layers.path(layer.name).read_bytes())

    ((path, problem),) = problems(origin.root)

    assert path == store.layers.path(name)
    assert "not right for every position" in problem
