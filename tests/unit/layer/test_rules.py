"""One test per rule of docs/internals/unpack-rules.md: what containerd does to a layer, and so our tree too."""

import stat

import pytest

from imagecache.errors import MalformedLayer, UnsafeLayer
from imagecache.layer.assemble import LayerTree, assemble
from imagecache.layer.implied_directories import resolve_implied
from imagecache.layer.tar_sources import ChunkSource
from imagecache.limits import DEFAULT
from testkit.tars import (
    CAPABILITY,
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FIFO,
    LINK,
    SYMLINK,
    Entry,
    at,
    grow,
    paths,
    pax_header,
    tar,
)
from testkit.trees import MemoryTree


def _xattr(name: bytes, value: bytes) -> dict[bytes, bytes]:
    return {b"SCHILY.xattr." + name: value}


def _on(tree: LayerTree, *lowers: LayerTree) -> bool:
    """Resolve ``tree`` on lower layers, topmost first."""
    return resolve_implied(tree, [MemoryTree(lower.root) for lower in lowers])


def test_rule_01_lower_layers_are_looked_at_for_implied_parents_only() -> None:
    lower = grow(Entry(b"a/", DIRECTORY, mode=0o700), Entry(b"a/f", mode=0o600, uid=5), bottom=True)
    tree = grow(Entry(b"a/", DIRECTORY, mode=0o711), Entry(b"a/f", mode=0o644))
    assert not _on(tree, lower)
    assert (at(tree, "a").mode, at(tree, "a/f").mode, at(tree, "a/f").uid) == (0o40711, 0o100644, 0)


def test_rule_02_an_implied_parent_takes_mode_owner_and_xattrs_from_the_first_layer_that_has_it() -> None:
    bottom = grow(Entry(b"tmp/", DIRECTORY, mode=0o755), bottom=True)
    records = _xattr(b"user.k", b"v")
    lower = grow(Entry(b"tmp/", DIRECTORY, mode=0o1777, uid=3, gid=4, pax=records), Entry(b"tmp/.wh..wh..opq"))
    tree = grow(Entry(b"tmp/x"))
    assert _on(tree, lower, bottom)
    tmp = at(tree, "tmp")
    assert (tmp.mode, tmp.uid, tmp.gid, tmp.xattrs) == (0o41777, 3, 4, {b"user.k": b"v"})


def test_rule_02_a_layer_without_the_directory_is_passed_over() -> None:
    tree = grow(Entry(b"tmp/x"))
    assert _on(tree, grow(Entry(b"other")), grow(Entry(b"tmp/", DIRECTORY, mode=0o1777), bottom=True))
    assert at(tree, "tmp").mode == 0o41777


def test_rule_02_a_non_directory_below_stops_the_search() -> None:
    tree = grow(Entry(b"a/x"))
    assert not _on(tree, grow(Entry(b".wh.a")), grow(Entry(b"a/", DIRECTORY, mode=0o700), bottom=True))
    assert at(tree, "a").mode == 0o40755


def test_rule_02_nothing_below_means_0755_of_root() -> None:
    tree = grow(Entry(b"a/b/x"))
    assert not _on(tree, grow(Entry(b"other"), bottom=True))
    assert [(inode.mode, inode.uid, inode.gid) for inode in (at(tree, "a"), at(tree, "a/b"))] == [(0o40755, 0, 0)] * 2


def test_rule_02_attributes_equal_to_the_default_leave_the_layer_context_free() -> None:
    assert not _on(grow(Entry(b"a/x")), grow(Entry(b"a/", DIRECTORY, mode=0o755, mtime=9), bottom=True))


def test_rule_02_a_later_entry_overrides_mode_and_owner_but_xattrs_from_below_stay() -> None:
    records = _xattr(b"user.below", b"1") | _xattr(b"user.both", b"1")
    lower = grow(Entry(b"a/", DIRECTORY, mode=0o700, uid=7, pax=records), bottom=True)
    tree = grow(Entry(b"a/x"), Entry(b"a/", DIRECTORY, mode=0o711, uid=8, mtime=5, pax=_xattr(b"user.both", b"2")))
    assert _on(tree, lower)
    a = at(tree, "a")
    assert (a.mode, a.uid, a.mtime, a.xattrs) == (0o40711, 8, 5, {b"user.below": b"1", b"user.both": b"2"})


def test_rule_02_symlinks_below_are_followed_inside_that_layer() -> None:
    lower = grow(
        Entry(b"lib", SYMLINK, target=b"/usr/lib"), Entry(b"usr/lib/", DIRECTORY, mode=0o2750, gid=9), bottom=True
    )
    tree = grow(Entry(b"lib/x"))
    assert _on(tree, lower)
    assert (at(tree, "lib").mode, at(tree, "lib").gid) == (0o42750, 9)


def test_rule_02_a_parent_that_is_no_directory_below_fails_the_pull() -> None:
    with pytest.raises(UnsafeLayer, match="not a directory"):
        _on(grow(Entry(b"a/b/x")), grow(Entry(b"a"), bottom=True))


def test_rule_02_a_group_is_inherited_from_a_setgid_parent() -> None:
    lower = grow(Entry(b"mail/", DIRECTORY, mode=0o2775, gid=8), bottom=True)
    tree = grow(Entry(b"mail/new/x"), Entry(b"own/", DIRECTORY, mode=0o2755, gid=6), Entry(b"own/new/x"))
    assert (at(tree, "own/new").gid, at(tree, "own/new").mode) == (6, 0o40755)
    assert _on(tree, lower)
    assert (at(tree, "mail/new").gid, at(tree, "mail/new").mode) == (8, 0o40755)
    assert (at(tree, "own/new").gid, at(tree, "own/new").mode) == (6, 0o40755)


def test_rule_03_an_implied_directory_has_the_time_of_its_newest_child() -> None:
    tree = grow(Entry(b"a/b/old", mtime=5), Entry(b"a/b/new", mtime=9, pax={b"mtime": b"9.25"}), Entry(b"a/x", mtime=2))
    for inode in (tree.root, at(tree, "a"), at(tree, "a/b")):
        assert (inode.mtime, inode.mtime_nsec) == (9, 250_000_000)


def test_rule_03_an_implied_directory_without_children_is_of_the_epoch() -> None:
    assert at(grow(Entry(b"a/.wh..wh..opq", mtime=7)), "a").mtime == 0


def test_rule_03_an_implied_directory_that_nothing_was_put_in_keeps_the_time_below() -> None:
    lower = grow(Entry(b"a/", DIRECTORY, mode=0o755, mtime=7), bottom=True)
    tree = grow(Entry(b"a/.wh..wh..opq", mtime=9))
    assert _on(tree, lower)
    assert at(tree, "a").mtime == 7


def test_rule_02_a_look_below_fails_also_for_what_is_gone_at_the_end() -> None:
    with pytest.raises(UnsafeLayer, match="not a directory"):
        _on(grow(Entry(b"a/b/f"), Entry(b"a")), grow(Entry(b"a"), bottom=True))


def test_rule_08_the_time_of_a_removed_directory_goes_to_an_implied_one_of_its_path() -> None:
    tree = grow(
        Entry(b"e/d", SYMLINK, target=b"/e"),
        Entry(b"e/d/d/", DIRECTORY, mtime=1),
        Entry(b"e/d/d/x/", DIRECTORY, mtime=2),
    )
    assert at(tree, "e/d/d").mtime == 1


def test_rule_04_a_hard_link_needs_its_target_in_the_same_layer() -> None:
    with pytest.raises(UnsafeLayer, match=r"'l' points to 'etc/f'"):
        grow(Entry(b"l", LINK, target=b"etc/f"))
    tree = grow(Entry(b"d/f"), Entry(b"s", SYMLINK, target=b"/d"), Entry(b"l", LINK, target=b"s/f"))
    assert at(tree, "l") is at(tree, "d/f")
    assert at(tree, "l").nlink == 2


def test_rule_05_the_last_entry_of_an_inode_wins() -> None:
    tree = grow(
        Entry(b"f", content=b"x", mode=0o4755, uid=1, mtime=1, pax=_xattr(b"user.a", b"1")),
        Entry(b"l", LINK, target=b"f", mode=0o600, uid=2, gid=3, mtime=4, pax=_xattr(b"user.b", b"2")),
    )
    f = at(tree, "f")
    assert (f.mode, f.uid, f.gid, f.mtime, f.size) == (0o100600, 2, 3, 4, 1)
    assert f.xattrs == {b"user.a": b"1", b"user.b": b"2"}


def test_rule_05_changing_the_owner_takes_file_capabilities() -> None:
    records = _xattr(b"security.capability", CAPABILITY)
    tree = grow(Entry(b"f", pax=records), Entry(b"l", LINK, target=b"f"))
    assert at(tree, "f").xattrs == {}
    again = grow(Entry(b"f", pax=records), Entry(b"l", LINK, target=b"f", pax=records))
    assert at(again, "f").xattrs == {b"security.capability": CAPABILITY}


def test_rule_06_symlinks_in_a_directory_part_are_followed_inside_the_layer() -> None:
    tree = grow(Entry(b"bin", SYMLINK, target=b"../../usr/bin"), Entry(b"bin/sh"), Entry(b"/bin/ls"))
    assert paths(tree) == ["bin", "usr", "usr/bin", "usr/bin/ls", "usr/bin/sh"]


def test_rule_06_a_lower_layers_symlink_is_not_seen() -> None:
    tree = grow(Entry(b"bin/sh"))
    _on(tree, grow(Entry(b"bin", SYMLINK, target=b"usr/bin"), bottom=True))
    assert at(tree, "bin").is_dir


def test_rule_06_the_last_component_is_not_followed() -> None:
    tree = grow(Entry(b"d/", DIRECTORY), Entry(b"s", SYMLINK, target=b"d"), Entry(b"s", mode=0o600))
    assert (at(tree, "s").mode, paths(tree)) == (0o100600, ["d", "s"])


def test_rule_06_a_parent_that_is_no_directory_fails_the_pull() -> None:
    with pytest.raises(UnsafeLayer, match="not a directory: 'f'"):
        grow(Entry(b"f"), Entry(b"f/x"))


@pytest.mark.parametrize("name", [b".", b"./", b"/", b"..", b"", b"a/..", b"../.."])
def test_rule_07_an_entry_for_the_root_is_ignored(name: bytes) -> None:
    tree = grow(Entry(name, DIRECTORY, mode=0o700, uid=5, gid=5, mtime=9, pax=_xattr(b"user.a", b"1")))
    root = tree.root
    assert (root.mode, root.uid, root.gid, root.mtime, root.xattrs) == (0o40755, 0, 0, 0, {})
    assert tree.entries == 0


def test_rule_08_the_last_of_two_entries_replaces_the_first() -> None:
    tree = grow(
        Entry(b"d/", DIRECTORY),
        Entry(b"d/x"),
        Entry(b"d", content=b"1"),
        Entry(b"e"),
        Entry(b"e", SYMLINK, target=b"d"),
    )
    assert (paths(tree), at(tree, "d").size, at(tree, "e").target) == (["d", "e"], 1, b"d")


def test_rule_08_a_directory_on_a_directory_keeps_its_contents() -> None:
    tree = grow(
        Entry(b"d/", DIRECTORY, mode=0o700, pax=_xattr(b"user.a", b"1")),
        Entry(b"d/x"),
        Entry(b"d", DIRECTORY, mode=0o1777, uid=1, mtime=3, pax=_xattr(b"user.b", b"2")),
    )
    d = at(tree, "d")
    assert (paths(tree), d.mode, d.uid, d.mtime) == (["d", "d/x"], 0o41777, 1, 3)
    assert d.xattrs == {b"user.a": b"1", b"user.b": b"2"}


def test_rule_08_directory_times_are_set_at_the_end_by_name() -> None:
    tree = grow(Entry(b"d/", DIRECTORY, mtime=5), Entry(b"d", SYMLINK, target=b"f", mtime=6), Entry(b"f", mtime=7))
    assert (at(tree, "d").mtime, at(tree, "f").mtime) == (6, 5)


def test_rule_08_a_directory_whose_name_leads_nowhere_at_the_end_fails_the_pull() -> None:
    with pytest.raises(UnsafeLayer, match="directory 'd/' was removed"):
        grow(Entry(b"d/", DIRECTORY), Entry(b"d", SYMLINK, target=b"gone"))


def test_rule_09_a_whiteout_is_a_character_device_with_the_entrys_owner() -> None:
    tree = grow(Entry(b"d/.wh.x", uid=3, gid=4, mode=0o644, mtime=8))
    x = at(tree, "d/x")
    assert (x.mode, x.major, x.minor, x.uid, x.gid, x.mtime) == (stat.S_IFCHR, 0, 0, 3, 4, 8)
    assert at(tree, "d").xattrs == {b"trusted.overlay.origin": b""}
    assert (paths(tree), tree.has_whiteouts) == (["d", "d/x"], True)


def test_rule_09_a_whiteout_of_the_layers_own_name_fails_the_pull() -> None:
    with pytest.raises(UnsafeLayer, match="hides something that its own layer has"):
        grow(Entry(b"x"), Entry(b".wh.x"))


def test_rule_09_an_entry_after_its_whiteout_replaces_it() -> None:
    tree = grow(Entry(b"d/.wh.x"), Entry(b"d/x", content=b"1"))
    assert (at(tree, "d/x").is_file, at(tree, "d").xattrs) == (True, {})


@pytest.mark.parametrize("name", [b".wh..", b".wh...", b".wh."])
def test_rule_09_a_whiteout_that_leaves_its_directory_is_refused(name: bytes) -> None:
    for bottom in (False, True):
        with pytest.raises(UnsafeLayer, match="outside of its directory"):
            grow(Entry(b"d/" + name), bottom=bottom)


def test_rule_10_an_opaque_marker_is_an_xattr_of_its_directory() -> None:
    tree = grow(Entry(b"d/x"), Entry(b"d/.wh..wh..opq"), Entry(b"d/.wh.y"))
    assert at(tree, "d").xattrs == {b"trusted.overlay.opaque": b"y", b"trusted.overlay.origin": b""}
    assert paths(tree) == ["d", "d/x", "d/y"]


def test_rule_10_other_double_whiteouts_hide_names_that_begin_like_one() -> None:
    tree = grow(Entry(b".wh..wh.plnk"), Entry(b".wh..wh..opq2"))
    assert paths(tree) == [".wh..opq2", ".wh.plnk"]
    assert at(tree, ".wh.plnk").is_whiteout


def test_rule_11_at_the_bottom_a_whiteout_removes_what_the_layer_has_written() -> None:
    tree = grow(Entry(b"d/x"), Entry(b"d/y"), Entry(b"d/.wh.x"), Entry(b".wh.never"), bottom=True)
    assert (paths(tree), at(tree, "d").xattrs, tree.has_whiteouts) == (["d", "d/y"], {}, True)


def test_rule_11_at_the_bottom_opaque_spares_what_entries_have_written() -> None:
    tree = grow(
        Entry(b"d/own/", DIRECTORY),
        Entry(b"d/own/implied/f"),
        Entry(b"d/implied/f"),
        Entry(b"d/f"),
        Entry(b"d/.wh..wh..opq"),
        bottom=True,
    )
    assert (paths(tree), at(tree, "d").xattrs) == (["d", "d/f", "d/own"], {})


def test_rule_11_at_the_bottom_opaque_acts_once_in_a_directory() -> None:
    opaque = Entry(b"d/.wh..wh..opq")
    assert paths(grow(opaque, Entry(b"d/implied/f"), opaque, bottom=True)) == ["d", "d/implied", "d/implied/f"]


def test_rule_11_at_the_bottom_a_path_once_written_counts_as_written() -> None:
    tree = grow(
        Entry(b"d/a/f"), Entry(b"d/a"), Entry(b"d/.wh.a"), Entry(b"d/a/g"), Entry(b"d/.wh..wh..opq"), bottom=True
    )
    assert paths(tree) == ["d", "d/a", "d/a/g"]


def test_rule_12_a_character_device_0_0_is_kept_and_acts_as_a_whiteout() -> None:
    tree = grow(Entry(b"d/x", CHARACTER, mode=0o600), Entry(b"l", LINK, target=b"d/x", mode=0o600))
    assert at(tree, "d/x").is_whiteout
    assert at(tree, "d/x").mode == 0o20600
    assert at(tree, "d").xattrs == tree.root.xattrs == {b"trusted.overlay.origin": b""}
    assert not tree.has_whiteouts


def test_rule_13_only_schily_xattrs_are_read() -> None:
    records = {b"LIBARCHIVE.xattr.user.a": b"MQ==", b"SCHILY.xattr.user.b": b"", b"SCHILY.acl.access": b"x"}
    assert at(grow(Entry(b"f", pax=records)), "f").xattrs == {b"user.b": b""}


def test_rule_13_user_xattrs_are_for_files_and_directories() -> None:
    records = _xattr(b"user.a", b"1") | _xattr(b"security.s", b"2")
    tree = grow(
        Entry(b"f", pax=records),
        Entry(b"d/", DIRECTORY, pax=records),
        Entry(b"s", SYMLINK, target=b"f", pax=records),
        Entry(b"p", FIFO, pax=records),
    )
    assert at(tree, "f").xattrs == at(tree, "d").xattrs == {b"user.a": b"1", b"security.s": b"2"}
    assert at(tree, "s").xattrs == at(tree, "p").xattrs == {b"security.s": b"2"}


def test_rule_13_trusted_overlay_and_unsupported_xattrs_are_dropped() -> None:
    names = (b"trusted.x", b"trusted.overlay.redirect", b"user.overlay.opaque", b"system.nfs4_acl", b"none", b"osx.y")
    records = {key: value for name in names for key, value in _xattr(name, b"y").items()}
    assert at(grow(Entry(b"d/", DIRECTORY, pax=records)), "d").xattrs == {}


def test_rule_14_setuid_survives_and_times_have_nanoseconds() -> None:
    tree = grow(Entry(b"f", mode=0o104755, uid=1, pax={b"mtime": b"1700000000.123456789"}))
    f = at(tree, "f")
    assert (f.mode, f.mtime, f.mtime_nsec) == (0o104755, 1_700_000_000, 123_456_789)


@pytest.mark.parametrize("time", [b"-1", b"-0.5", b"9223372037", b"9223372036.854775808", b"-9223372036854775808"])
def test_rule_14_a_time_out_of_range_becomes_the_epoch(time: bytes) -> None:
    f = at(grow(Entry(b"f", pax={b"mtime": time})), "f")
    assert (f.mtime, f.mtime_nsec) == (0, 0)


def test_rule_14_the_last_time_in_range_is_kept() -> None:
    f = at(grow(Entry(b"f", pax={b"mtime": b"9223372036.854775807"})), "f")
    assert (f.mtime, f.mtime_nsec) == (9_223_372_036, 854_775_807)


def test_rule_14_a_symlink_has_owner_and_time_but_no_mode() -> None:
    tree = grow(Entry(b"s", SYMLINK, target=b"t", mode=0o4000, uid=1, gid=2, mtime=3), Entry(b"l", LINK, target=b"s"))
    s = at(tree, "s")
    assert (s.mode, s.target, s.size, s.mtime, s.nlink) == (0o120777, b"t", 1, 0, 2)


def test_rule_14_an_owner_of_minus_one_changes_nothing() -> None:
    unset = 0xFFFF_FFFF
    tree = grow(
        Entry(b"d/", DIRECTORY, mode=0o2755, uid=1, gid=2),
        Entry(b"d/f", uid=unset, gid=-1),
        Entry(b"d", DIRECTORY, uid=unset, gid=unset),
        Entry(b"big", uid=(1 << 32) + 5, gid=-2),
    )
    owners = [(inode.uid, inode.gid) for inode in (at(tree, "d"), at(tree, "d/f"), at(tree, "big"))]
    assert owners == [(1, 2), (0, 2), (5, 0xFFFF_FFFE)]


def test_rule_15_global_headers_are_no_entries_but_their_names_have_effects() -> None:
    tree = grow(Entry(b"f"), pax_header({b"path": b"d/f2", b"uid": b"nobody"}, b"g"), Entry(b"g", uid=1))
    assert (paths(tree), at(tree, "g").uid) == (["d", "f", "g"], 1)
    assert paths(grow(Entry(b"f"), pax_header({b"path": b"f"}, b"g"))) == []


def test_rule_15_what_go_refuses_is_refused() -> None:
    for data in (tar(Entry(b"f", checksum=b"000000\0 ")), tar(Entry(b"s", b"S")), Entry(b"f", size=600).pack()):
        with pytest.raises(MalformedLayer):
            assemble(ChunkSource([data]), bottom=False, limits=DEFAULT)
    with pytest.raises(UnsafeLayer, match="unknown type 'V'"):
        grow(Entry(b"volume", b"V"))


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(1024) + b"more"])
def test_rule_15_an_archive_may_end_without_its_end_blocks(end: bytes) -> None:
    assert paths(assemble(ChunkSource([tar(Entry(b"f"), end=end)]), bottom=False, limits=DEFAULT)) == ["f"]


def test_rule_15_a_sparse_file_is_its_pieces() -> None:
    records = {b"GNU.sparse.map": b"4,3,10,1", b"GNU.sparse.numblocks": b"2", b"GNU.sparse.size": b"20"}
    f = at(grow(Entry(b"f", content=b"abcd", pax=records)), "f")
    assert f.sparse is not None
    assert (f.size, [(piece.offset, piece.length) for piece in f.sparse]) == (20, [(4, 3), (10, 1)])
    assert f.sparse[1].source == f.sparse[0].source + 3


def test_rule_16_device_numbers_are_those_mknod_would_make() -> None:
    tree = grow(
        Entry(b"sda", DEVICE, major=8, minor=1, mode=0o660),
        Entry(b"big", CHARACTER, major=4096 + 5, minor=(1 << 20) + 300),
        Entry(b"pipe", FIFO, major=9, minor=9),
    )
    assert [(i.mode, i.major, i.minor) for i in (at(tree, "sda"), at(tree, "big"), at(tree, "pipe"))] == [
        (0o60660, 8, 1),
        (0o20644, 5, 300),
        (0o10644, 0, 0),
    ]


def test_rule_16_device_numbers_over_32_bits_are_refused() -> None:
    with pytest.raises(UnsafeLayer, match="out of range"):
        grow(Entry(b"c", CHARACTER, fields={329: b"\x80\0\0\1\0\0\0\0"}))


def test_rule_17_what_follows_the_end_is_left_for_the_digest() -> None:
    source = ChunkSource([tar(Entry(b"f")), b"trailing", b" bytes"])
    assert paths(assemble(source, bottom=False, limits=DEFAULT)) == ["f"]
    assert source.drain() == len(b"trailing bytes")


def test_rule_18_the_root_of_every_layer_is_0755_of_root() -> None:
    tree = grow(Entry(b"./", DIRECTORY, mode=0o711, uid=9), Entry(b"f", mtime=4))
    assert not _on(tree, grow(Entry(b"./", DIRECTORY, mode=0o700), bottom=True))
    assert (tree.root.mode, tree.root.uid, tree.root.mtime, tree.root.nlink) == (0o40755, 0, 4, 2)
