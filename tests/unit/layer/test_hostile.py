"""Every attack of the table: refused with the right error, or kept inside."""

import pytest

from imagecache.layer.assemble import assemble
from imagecache.layer.tar_sources import ChunkSource
from imagecache.limits import DEFAULT
from testkit.hostile_tars import CONTAINED, REFUSED, Contained, Refused
from testkit.tars import paths


@pytest.mark.parametrize("attack", REFUSED.values(), ids=REFUSED)
def test_refused(attack: Refused) -> None:
    with pytest.raises(attack.error) as caught:
        assemble(ChunkSource([attack.data]), bottom=attack.bottom, limits=attack.limits)
    assert type(caught.value) is attack.error
    assert 10 < len(str(caught.value)) < 700


@pytest.mark.parametrize("attack", CONTAINED.values(), ids=CONTAINED)
@pytest.mark.parametrize("size", [1 << 20, 100])
def test_contained(attack: Contained, size: int) -> None:
    chunks = [attack.data[start : start + size] for start in range(0, len(attack.data), size)]
    assert paths(assemble(ChunkSource(chunks), bottom=False, limits=DEFAULT)) == list(attack.paths)
