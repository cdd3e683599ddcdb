from collections.abc import Iterator
from dataclasses import replace

import pytest

from imagecache.errors import LimitExceeded, MalformedLayer
from imagecache.layer.assemble import assemble
from imagecache.layer.budget import Budget
from imagecache.layer.tar_entry import DIRECTORY, FILE, PAX_GLOBAL, TarEntry, quoted
from imagecache.layer.tar_reader import entries
from imagecache.layer.tar_sources import ChunkSource
from imagecache.limits import DEFAULT
from imagecache.tree import Segment
from testkit.tars import GNU, V7, Entry, long_name, padded, pax_header, pax_record, tar


def _read(*members: Entry | bytes) -> list[TarEntry]:
    return list(entries(ChunkSource([tar(*members)]), DEFAULT, Budget(DEFAULT)))


def _one(*members: Entry | bytes) -> TarEntry:
    (entry,) = _read(*members)
    return entry


def test_every_field_of_a_header() -> None:
    entry = _one(Entry(b"n", b"3", b"", 0o4755, 1, 2, 3, b"t", 4, 5))
    assert entry == TarEntry(b"n", 0x33, 0o4755, 1, 2, 3, 0, 0, 512, b"t", 4, 5)


def test_content_lies_behind_its_header() -> None:
    first, second = _read(Entry(b"a", content=b"x" * 513), Entry(b"b", content=b"y"))
    assert (first.data, first.size, second.data) == (512, 513, 512 + 1024 + 512)


def test_types_without_content_have_none() -> None:
    entries_read = _read(*(Entry(b"e", b"%d" % kind, target=b"t", size=600) for kind in range(1, 7)), Entry(b"f"))
    assert len(entries_read) == 7


def test_ustar_prefix() -> None:
    assert _one(Entry(b"name", fields={345: b"pre/fix"})).name == b"pre/fix/name"
    assert _one(Entry(b"name", fields={345: b"p" * 155})).name == b"p" * 155 + b"/name"


def test_star_prefix_is_shorter() -> None:
    times = {476: b"00000000012\0", 488: b"00000000012\0", 508: b"tar\0"}
    assert _one(Entry(b"name", fields={345: b"p" * 131} | times)).name == b"p" * 131 + b"/name"
    assert _one(Entry(b"name", fields=times)).name == b"name"


def test_gnu_has_times_where_ustar_has_a_prefix() -> None:
    assert _one(Entry(b"name", magic=GNU, fields={345: b"00000000012\000000000012\0"})).name == b"name"
    assert _one(Entry(b"name", magic=GNU, fields={345: b"00000000012\0"})).name == b"name"


def test_gnu_with_the_prefix_of_old_go() -> None:
    assert _one(Entry(b"name", magic=GNU, fields={345: b"a/prefix"})).name == b"a/prefix/name"
    assert _one(Entry(b"name", magic=GNU, fields={345: b"\xc3\xa9"})).name == b"name"


def test_v7_has_neither_prefix_nor_device() -> None:
    entry = _one(Entry(b"name", b"3", magic=V7, major=4, minor=5, fields={345: b"prefix"}))
    assert (entry.name, entry.major, entry.minor) == (b"name", 0, 0)


def test_v7_type() -> None:
    file, directory, empty = _read(Entry(b"f", b"\0", b"x"), Entry(b"d/", b"\0", size=600), Entry(b"e", b"\0"))
    assert (file.type, file.size, directory.type, empty.type) == (FILE, 1, DIRECTORY, FILE)


def test_signed_checksum_of_old_sun_tars() -> None:
    entry = Entry(b"\xe9t\xe9")
    unsigned = int(entry.header()[148:154], 8)
    assert _one(replace(entry, checksum=b"%06o\0 " % (unsigned - 512))).name == b"\xe9t\xe9"
    assert _one(entry).name == b"\xe9t\xe9"
    # the field counts as blanks, whatever is behind its NUL
    assert _one(replace(entry, checksum=b"%06o\0\xff" % (unsigned - 512))).name == b"\xe9t\xe9"
    with pytest.raises(MalformedLayer, match="checksum"):
        _one(replace(entry, checksum=b"%06o\0\xff" % (unsigned - 768)))


def test_one_entry_too_many_is_that_whatever_it_is() -> None:
    bad = Entry(b"b", pax={b"SCHILY.xattr.security.capability": b"x"})
    with pytest.raises(LimitExceeded, match="more than 1 entries"):
        assemble(ChunkSource([tar(Entry(b"a"), bad)]), bottom=False, limits=replace(DEFAULT, layer_entries=1))


def test_gnu_long_name_and_link() -> None:
    entry = _one(long_name(b"n" * 300), long_name(b"t" * 300, b"K"), Entry(b"short", b"2", target=b"t"))
    assert (entry.name, entry.target) == (b"n" * 300, b"t" * 300)


def test_gnu_long_name_wins_over_pax() -> None:
    assert _one(long_name(b"gnu"), Entry(b"s", pax={b"path": b"pax"})).name == b"gnu"


def test_pax_overrides_the_header() -> None:
    pax = {
        b"path": b"long", b"linkpath": b"target", b"uid": b"10000000", b"gid": b"7", b"mtime": b"5.5",
        b"uname": b"u", b"gname": b"g", b"atime": b"1", b"ctime": b"1", b"SCHILY.xattr.user.a": b"v\0=",
    }  # fmt: skip
    entry = _one(Entry(b"n", b"2", uid=1, mtime=1, target=b"t", pax=pax))
    assert (entry.name, entry.target, entry.uid, entry.gid) == (b"long", b"target", 10_000_000, 7)
    assert (entry.mtime, entry.mtime_nsec, entry.xattrs) == (5, 500_000_000, {b"user.a": b"v\0="})


def test_an_empty_pax_value_overrides_nothing() -> None:
    assert _one(Entry(b"n", uid=3, pax={b"path": b"", b"uid": b""})).uid == 3


def test_pax_size() -> None:
    first, second = _read(Entry(b"a", content=b"x" * 600, size=0, pax={b"size": b"600"}), Entry(b"b"))
    assert (first.size, second.name) == (600, b"b")


def test_the_last_of_two_pax_headers_counts() -> None:
    entry = _one(pax_header({b"uid": b"5"}), Entry(b"n", pax={b"gid": b"6"}))
    assert (entry.uid, entry.gid) == (0, 6)
    assert _one(pax_header([(b"uid", b"5"), (b"uid", b"6")]), Entry(b"n")).uid == 6


def test_an_empty_pax_header() -> None:
    assert _one(Entry(b"p", b"x"), Entry(b"n", content=b"x")).size == 1


def test_a_global_header_ends_what_stood_before_it() -> None:
    header, entry = _read(
        long_name(b"lost"), pax_header({b"uid": b"5"}), pax_header({b"comment": b"c"}, b"g"), Entry(b"n")
    )
    assert (header.type, header.name, entry.name, entry.uid) == (PAX_GLOBAL, b"PaxHeaders/x", b"n", 0)


def _ends() -> Iterator[bytes]:
    content = Entry(b"f", content=b"x" * 100).pack()
    yield content
    yield content[: 512 + 100]
    yield content[: 512 + 300]
    yield content + bytes(512)
    yield content + bytes(1024) + b"anything"
    yield content + Entry(b"p", b"x", pax_record(b"uid", b"1")).pack()[:530]


@pytest.mark.parametrize("data", list(_ends()))
def test_ways_to_end(data: bytes) -> None:
    assert [entry.name for entry in entries(ChunkSource([data]), DEFAULT, Budget(DEFAULT))] == [b"f"]


def test_what_follows_the_end_blocks_stays_in_the_source() -> None:
    source = ChunkSource([tar(Entry(b"f")) + b"rest"])
    assert len(list(entries(source, DEFAULT, Budget(DEFAULT)))) == 1
    assert source.read(9) == b"rest"


def _sparse(records: list[tuple[bytes, bytes]], content: bytes) -> TarEntry:
    return _one(pax_header(records), Entry(b"stored", content=content))


def test_sparse_0_0() -> None:
    pairs = [(b"GNU.sparse.offset", b"1"), (b"GNU.sparse.numbytes", b"2"), (b"GNU.sparse.offset", b"5"),
             (b"GNU.sparse.numbytes", b"0")]  # fmt: skip
    entry = _sparse([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"2"), *pairs], b"ab")
    assert (entry.name, entry.size, entry.sparse) == (b"stored", 9, (Segment(1, 1536, 2),))


def test_sparse_0_1() -> None:
    records = {
        b"GNU.sparse.major": b"0", b"GNU.sparse.minor": b"1", b"GNU.sparse.name": b"real", b"GNU.sparse.size": b"9",
        b"GNU.sparse.numblocks": b"2", b"GNU.sparse.map": b"1,2,5,3",
    }  # fmt: skip
    entry = _sparse(list(records.items()), b"abcde")
    assert (entry.name, entry.size) == (b"real", 9)
    assert entry.sparse == (Segment(1, 1536, 2), Segment(5, 1538, 3))


def test_sparse_0_1_without_a_size() -> None:
    entry = _sparse([(b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"0,5")], b"abcde")
    assert (entry.size, entry.sparse) == (5, (Segment(0, 1536, 5),))


def test_sparse_without_data() -> None:
    records = [(b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.numblocks", b"0"),
               (b"GNU.sparse.size", b"7")]  # fmt: skip
    entry = _sparse(records, b"")
    assert (entry.size, entry.sparse) == (7, ())


_VERSION_1_0 = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"5000")]


def test_sparse_1_0() -> None:
    entry = _sparse(_VERSION_1_0, padded(b"2\n0\n3\n4096\n4\n") + b"abcdefg")
    assert (entry.data, entry.size) == (2048, 5000)
    assert entry.sparse == (Segment(0, 2048, 3), Segment(4096, 2051, 4))


def test_sparse_1_0_with_a_map_of_many_blocks() -> None:
    count = 400
    text = b"%d\n" % count + b"".join(b"%d\n1\n" % (2 * index) for index in range(count))
    entry = _sparse(_VERSION_1_0, padded(text) + b"x" * count)
    assert entry.sparse is not None
    assert (len(entry.sparse), entry.sparse[-1]) == (count, Segment(798, 1536 + len(padded(text)) + 399, 1))


def test_sparse_1_0_with_a_count_over_a_block() -> None:
    entry = _sparse(_VERSION_1_0, padded(b"0" * 600 + b"\n"))
    assert entry.sparse == ()


def test_an_unknown_sparse_version_is_an_ordinary_file() -> None:
    entry = _sparse([(b"GNU.sparse.major", b"2"), (b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.name", b"x")], b"abc")
    assert (entry.name, entry.size, entry.sparse) == (b"stored", 3, None)


def test_names_in_messages_are_short_and_printable() -> None:
    assert quoted(b"a\xff\n") == r"'a\\xff\n'"
    assert len(quoted(b"n" * 5000)) == 200
