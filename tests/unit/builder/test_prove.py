"""The proof of a layer image, by mutation: every field of its header, and bytes everywhere outside of its tar."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagecache.builder import layer_file
from imagecache.builder.position import ANYWHERE, Position
from imagecache.builder.prove import prove, prove_above, verify
from imagecache.erofs.format import SUPERBLOCK_OFFSET
from imagecache.erofs.layer_header import DATA_START, HEADER_OFFSET, LayerHeader
from imagecache.erofs.reader import LayerImage
from imagecache.errors import ContentError, StoreCorrupt
from imagecache.limits import DEFAULT
from testkit.images import tar_of
from testkit.mutations import mutations
from testkit.tars import sparse_file, tar

BOTTOM = Position(everywhere=False, bottom=True)
ABOVE = Position(everywhere=False, bottom=False)
HEADER = slice(HEADER_OFFSET, HEADER_OFFSET + LayerHeader.STRUCT.size)
REFUSED = (ContentError, StoreCorrupt)
TARS = {
    ANYWHERE: tar_of({"etc": None, "etc/file": b"content", "etc/link": "file", "etc/.wh.gone": b""}),
    BOTTOM: tar_of({"etc/file": b"content", "etc/.wh.gone": b""}),
    ABOVE: tar_of({"opt/app": b"x" * 5000}),
}
NAMES = {ANYWHERE: "everywhere", BOTTOM: "bottom", ABOVE: "above"}


@dataclass
class Made:
    """A sound layer image for a position, and the layers below it, top to bottom."""

    position: Position
    content: bytes
    lowers: list[LayerImage]
    path: Path

    @property
    def header(self) -> LayerHeader:
        return LayerHeader.unpack(self.content[HEADER])

    def proven(self, content: bytes) -> LayerHeader:
        """As a command proves a file, and as a node proves one that arrives. Raises what is wrong."""
        self.path.write_bytes(content)
        with self._open() as fd:
            found = verify(fd, position=self.position, lowers=self.lowers, limits=DEFAULT).header
            assert self.arrived(content) == found
        return found

    def arrived(self, content: bytes) -> LayerHeader:
        """The document has the honest diffID, and the size of the honest tar; the tar's digest is the caller's."""
        self.path.write_bytes(content)
        honest = self.header
        with self._open() as fd:
            if self.position.needs_lowers:
                image = prove_above(fd, self.lowers, diff_id=honest.diff_id, tar_size=honest.tar_size, limits=DEFAULT)
            else:
                image = prove(
                    fd,
                    [memoryview(content)],
                    diff_id=honest.diff_id,
                    tar_size=honest.tar_size,
                    position=self.position,
                    limits=DEFAULT,
                )
            return image.header

    @contextmanager
    def _open(self) -> Iterator[int]:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    def refuses(self, content: bytes) -> None:
        assert content != self.content
        with pytest.raises(REFUSED):
            self.proven(content)
        with pytest.raises(REFUSED):
            self.arrived(content)


@pytest.fixture(params=TARS, ids=NAMES.get)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    position: Position = request.param
    lower = tmp_path / "lower"
    layer_file.build(io.BytesIO(tar_of({"opt": None}, modes={"opt": 0o751})), lower)
    below = [lower] if position.needs_lowers else []
    layer_file.build(io.BytesIO(TARS[position]), tmp_path / "honest", below, bottom=position.by_bottom_rules)
    with ExitStack() as stack:
        lowers = [stack.enter_context(LayerImage.open(path)) for path in below]
        yield Made(position, (tmp_path / "honest").read_bytes(), lowers, tmp_path / "file")


def test_the_sound_one_is_proven(made: Made) -> None:
    assert made.proven(made.content) == made.header


def test_every_field_of_the_header(made: Made) -> None:
    """The fields are those of the type, so that a later one is among them."""
    lies = dict(mutations(made.header))
    for field in dataclasses.fields(LayerHeader):
        assert any(path.startswith(f".{field.name}") for path in lies)
    for lie in lies.values():
        made.refuses(made.content[: HEADER.start] + lie.pack() + made.content[HEADER.stop :])


def test_bytes_outside_of_the_tar(made: Made) -> None:
    """Every byte of header and superblock, and many of the rest: also of what nobody reads."""
    end = DATA_START + made.header.tar_size
    often = {*range(HEADER.start, HEADER.stop), *range(SUPERBLOCK_OFFSET, SUPERBLOCK_OFFSET + 128)}
    seldom = {*range(0, DATA_START, 41), *range(end, len(made.content), 23), DATA_START - 1, end, len(made.content) - 1}
    for at in sorted(often | seldom):
        made.refuses(made.content[:at] + bytes([made.content[at] ^ 1]) + made.content[at + 1 :])


def test_every_entry_of_a_table(tmp_path: Path) -> None:
    """Of a sparse file: an entry may become a hole, another chunk's, or the tar's."""
    pieces = {0: b"a" * 700, 12_000: b"b" * 3000, 19_000: b"c" * 1000}
    data = tar(sparse_file(b"disk", 20_000, pieces), sparse_file(b"hole", 20_000, {}))
    layer_file.build(io.BytesIO(data), tmp_path / "honest")
    made = Made(ANYWHERE, (tmp_path / "honest").read_bytes(), [], tmp_path / "file")
    assert made.proven(made.content) == made.header
    tables = lies = 0
    with LayerImage.open(tmp_path / "honest") as image:
        for _, inode in image.children(image.root()):
            assert inode.chunks is not None
            table = range(inode.chunks.table, inode.chunks.table + inode.chunks.table_size, 4)
            first = made.content[table[0] :][:4]
            tables += len(table)
            for at in table:
                others = {first, b"\xff" * 4, b"\x08\0\0\0"} - {made.content[at : at + 4]}
                lies += len(others)
                for other in others:
                    made.refuses(made.content[:at] + other + made.content[at + 4 :])
    assert tables > 20
    assert lies > 40


@pytest.mark.parametrize("more", [b"\0", b"\0" * 512, b"\0" * 4096, b"x" * 4096])
def test_bytes_behind_the_end(made: Made, more: bytes) -> None:
    made.refuses(made.content + more)


@pytest.mark.parametrize("fewer", [1, 512, 4096])
def test_a_file_that_ends_early(made: Made, fewer: int) -> None:
    made.refuses(made.content[:-fewer])


@pytest.mark.parametrize("other", TARS, ids=NAMES.get)
def test_right_for_one_position_and_no_other(made: Made, other: Position) -> None:
    """What a file says of itself decides nothing."""
    if other == made.position:
        return
    made.position = other
    with pytest.raises(REFUSED):
        made.arrived(made.content)
    with pytest.raises(REFUSED):
        made.proven(made.content)
