"""Whatever Python's tarfile writes in any format, we read the same metadata and find the same content."""

import io
import itertools
import stat
import tarfile
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from imagecache.layer.assemble import assemble
from imagecache.layer.budget import Budget
from imagecache.layer.compression import Compression, Decompressor
from imagecache.layer.tar_numbers import numeric
from imagecache.layer.tar_reader import entries
from imagecache.layer.tar_sources import ChunkSource
from imagecache.limits import DEFAULT
from testkit.tars import number

_FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
_TYPES = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
_SHORT = st.text("abcdefghij._-", min_size=1, max_size=30).filter(lambda text: not text.startswith("."))
_LONG = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=80).filter(
    lambda text: text not in {".", ".."} and not text.startswith(".wh.")
)


@dataclass(frozen=True)
class Member:
    info: tarfile.TarInfo
    content: bytes


@st.composite
def _members(draw: st.DrawFn, form: str) -> list[Member]:
    """Members with names of their own, all in the root."""
    wide = form != "ustar"
    names = draw(st.lists(_LONG if wide else _SHORT, min_size=1, max_size=6, unique=True))
    members = []
    for name in names:
        info = tarfile.TarInfo(name)
        info.type = draw(st.sampled_from(_TYPES))
        info.mode = draw(st.integers(0, 0o7777))
        info.uid = draw(st.integers(0, (1 << 31) - 1 if wide else 0o7777777))
        info.gid = draw(st.integers(0, (1 << 31) - 1 if wide else 0o7777777))
        info.mtime = draw(st.integers(0, (1 << 33) - 1))
        content = draw(st.binary(max_size=1100)) if info.type == tarfile.REGTYPE else b""
        info.size = len(content)
        info.devmajor, info.devminor = draw(st.integers(0, 0xFFF)), draw(st.integers(0, 0xFFFFF))
        info.linkname = draw(_LONG if wide else _SHORT) if info.type == tarfile.SYMTYPE else ""
        members.append(Member(info, content))
    return members


def _pack(members: list[Member], form: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=_FORMATS[form], encoding="utf-8") as archive:
        for member in members:
            archive.addfile(member.info, io.BytesIO(member.content))
    return file.getvalue()


@given(st.data(), st.sampled_from(sorted(_FORMATS)), st.integers(64, 5000))
def test_entries_are_what_tarfile_wrote(data: st.DataObject, form: str, size: int) -> None:
    members = data.draw(_members(form))
    packed = _pack(members, form)
    chunks = [packed[start : start + size] for start in range(0, len(packed), size)]
    read = list(entries(ChunkSource(chunks), DEFAULT, Budget(DEFAULT)))
    assert len(read) == len(members)
    for entry, member in zip(read, members, strict=True):
        info = member.info
        assert entry.name.rstrip(b"/") == info.name.encode()
        assert (entry.type, entry.mode, entry.uid, entry.gid) == (info.type[0], info.mode, info.uid, info.gid)
        assert (entry.mtime, entry.target) == (info.mtime, info.linkname.encode())
        assert packed[entry.data : entry.data + entry.size] == member.content
        if info.ischr() or info.isblk():
            assert (entry.major, entry.minor) == (info.devmajor, info.devminor)


@given(st.data(), st.sampled_from(sorted(_FORMATS)), st.booleans())
def test_a_tree_of_what_tarfile_wrote(data: st.DataObject, form: str, bottom: bool) -> None:
    members = data.draw(_members(form))
    packed = _pack(members, form)
    tree = assemble(ChunkSource([packed]), bottom=bottom, limits=DEFAULT)
    assert set(tree.root.children) == {member.info.name.encode() for member in members}
    for member in members:
        inode = tree.root.children[member.info.name.encode()]
        if not inode.is_symlink:
            assert stat.S_IMODE(inode.mode) == member.info.mode
        if inode.is_file:
            assert packed[inode.data : inode.data + inode.size] == member.content


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_numbers_of_any_size_in_a_header(value: int) -> None:
    assert numeric(number(value, 12)) == value


@given(st.binary(max_size=5000), st.lists(st.integers(0, 5000), max_size=5))
@settings(max_examples=50)
def test_plain_streams_pass_unchanged(data: bytes, cuts: list[int]) -> None:
    stream = Decompressor(Compression.NONE, DEFAULT)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert b"".join(stream.decompress(data[a:b]) for a, b in itertools.pairwise(edges)) == data
    stream.finish()
