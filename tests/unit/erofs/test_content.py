"""Where content lies."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest

from imagecache.erofs.content import SparseCopy, TarContent
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import DEFAULT
from imagecache.tree import Inode, Segment


def file(size: int, data: int = 0, *, sparse: tuple[Segment, ...] | None = None) -> Inode:
    return Inode(mode=stat.S_IFREG | 0o644, size=size, data=data, sparse=sparse)


def test_content_in_the_tar() -> None:
    content = TarContent(2048, DEFAULT)
    assert content.locate(file(1536, 512)) == 4096 + 512
    assert content.end() == 8192
    assert content.copies == []


@pytest.mark.parametrize("inode", [file(1, 100), file(1, -512), file(2, 1536), file(1, 2048), file(2**60)])
def test_content_outside_the_tar(inode: Inode) -> None:
    with pytest.raises(MalformedLayer, match="not inside the tar"):
        TarContent(1537, DEFAULT).locate(inode)


def test_the_data_of_sparse_files_follows_the_tar_in_order() -> None:
    content = TarContent(5000, DEFAULT)
    files = [
        file(4097, sparse=(Segment(1, 2, 3), Segment(4, 0, 5000 - 907))),
        file(1, sparse=()),
        file(2**39, sparse=(Segment(2**39 - 7, 5, 2), Segment(2**39 - 1, 0, 1))),
    ]
    copies = [content.locate(inode) for inode in files]
    assert content.copies == copies
    dense, hole, end = content.copies
    assert (dense.position, dense.address, dense.chunks.stored) == (12288, 24, 4608)
    assert list(dense.places()) == [(12288 + 1, Segment(1, 2, 3)), (12288 + 4, Segment(4, 0, 4093))]
    assert (hole.chunks.stored, list(hole.places())) == (0, [])
    assert end.position == 12288 + 4608
    assert [position for position, _ in end.places()] == [
        end.position + end.chunks.stored - 7,
        end.position + end.chunks.stored - 1,
    ]
    assert content.end() % 4096 == 0 <= content.end() - end.position - end.chunks.stored < 4096


@pytest.mark.parametrize(
    "segments",
    [
        (Segment(0, 0, -1),),
        (Segment(-1, 0, 1),),
        (Segment(5, 0, 1), Segment(0, 0, 1)),
        (Segment(0, 0, 2), Segment(1, 0, 1)),
        (Segment(0, 99, 2),),
        (Segment(0, -1, 2),),
        (Segment(9, 0, 2),),
    ],
    ids=["negative", "before the start", "disorder", "overlap", "behind the tar", "before the tar", "behind the end"],
)
def test_impossible_pieces(segments: tuple[Segment, ...]) -> None:
    with pytest.raises(MalformedLayer):
        TarContent(100, DEFAULT).locate(file(10, sparse=segments))


def test_limits() -> None:
    with pytest.raises(LimitExceeded, match="layer_uncompressed"):
        TarContent(DEFAULT.layer_uncompressed + 1, DEFAULT)
    content = TarContent(100, replace(DEFAULT, layer_uncompressed=9_500, sparse_segments=1, sparse_chunks=1))
    assert isinstance(content.locate(file(9_000, sparse=(Segment(0, 0, 1),))), SparseCopy)
    with pytest.raises(LimitExceeded, match="layer_uncompressed"):
        content.locate(file(1, sparse=(Segment(0, 0, 1),)))
    with pytest.raises(LimitExceeded, match="EROFS can describe"):
        content.locate(file(2**40 + 1, sparse=()))
    with pytest.raises(LimitExceeded, match="sparse_segments"):
        content.locate(file(9, sparse=(Segment(0, 0, 1), Segment(1, 0, 1))))
