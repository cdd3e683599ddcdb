"""Where content lies."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest

from imagecache.erofs.content import TarContent
from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.limits import DEFAULT
from imagecache.tree import Inode, Segment


def file(size: int, data: int = 0, *, sparse: tuple[Segment, ...] | None = None) -> Inode:
    return Inode(mode=stat.S_IFREG | 0o644, size=size, data=data, sparse=sparse)


def test_content_in_the_tar() -> None:
    content = TarContent(2048, DEFAULT)
    assert content.locate(file(1536, 512)) == 4096 + 512
    assert content.end() == 8192
    assert content.expanded == []


@pytest.mark.parametrize("inode", [file(1, 100), file(1, -512), file(2, 1536), file(1, 2048), file(2**60)])
def test_content_outside_the_tar(inode: Inode) -> None:
    with pytest.raises(MalformedLayer, match="not inside the tar"):
        TarContent(1537, DEFAULT).locate(inode)


def test_sparse_files_follow_the_tar_in_order() -> None:
    content = TarContent(5000, DEFAULT)
    files = [file(4097, sparse=(Segment(1, 2, 3), Segment(4, 0, 5000 - 907))), file(1, sparse=())]
    assert [content.locate(inode) for inode in files] == [12288, 20480]
    assert content.end() == 24576
    assert content.expanded == [(12288, files[0]), (20480, files[1])]


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
    content = TarContent(100, replace(DEFAULT, layer_uncompressed=10_000, sparse_segments=1))
    content.locate(file(8192, sparse=()))
    with pytest.raises(LimitExceeded, match="layer_uncompressed"):
        content.locate(file(1, sparse=()))
    with pytest.raises(LimitExceeded, match="sparse_segments"):
        content.locate(file(9, sparse=(Segment(0, 0, 1), Segment(1, 0, 1))))
