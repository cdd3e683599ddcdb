import pytest

from imagecache.layer.budget import Budget
from imagecache.layer.path_resolver import PathResolver, clean, tree_lookup
from imagecache.limits import DEFAULT
from testkit.tars import DIRECTORY, SYMLINK, Entry, grow


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        (b"", b"."),
        (b".", b"."),
        (b"/", b"/"),
        (b"//a//b/", b"/a/b"),
        (b"a/./b", b"a/b"),
        (b"a/../b", b"b"),
        (b"a/..", b"."),
        (b"../a", b"../a"),
        (b"../../a", b"../../a"),
        (b"a/../../b", b"../b"),
        (b"/..", b"/"),
        (b"/../a", b"/a"),
    ],
)
def test_clean(name: bytes, cleaned: bytes) -> None:
    assert clean(name) == cleaned


def _resolver(**links: str) -> PathResolver:
    """A tree with the directories a/b and c, and these symlinks in the root (``in_x``: in the directory a/b)."""
    members = [Entry(b"a/b/", DIRECTORY), Entry(b"c/", DIRECTORY)]
    for name, target in links.items():
        path = "a/b/" + name[3:] if name.startswith("in_") else name
        members.append(Entry(path.encode(), SYMLINK, target=target.encode()))
    return PathResolver(grow(*members).root, tree_lookup, DEFAULT, Budget(DEFAULT).step)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (b"", b""),
        (b"/", b""),
        (b"a/b", b"a/b"),
        (b"/a//./b/", b"a/b"),
        (b"missing/x", b"missing/x"),
        (b"missing/../c", b"c"),
        (b"../c", b"c"),
        (b"relative/x", b"a/b/x"),
        (b"absolute", b"c"),
        (b"above/x", b"c/x"),
        (b"root", b""),
        (b"twice/x", b"a/b/x"),
        (b"dangling/x", b"nowhere/x"),
        (b"relative/up", b"a/c"),
        (b"relative/..", b"a"),
        (b"/dotted/x", b"a/b/x"),
        (b"dotted", b"a/b"),
    ],
)
def test_resolve(path: bytes, place: bytes) -> None:
    resolver = _resolver(
        relative="a/b", absolute="/c", above="../../c", root="/", twice="relative", dangling="nowhere", in_up="../c",
        dotted="./relative/.",
    )  # fmt: skip
    assert b"/".join(resolver.resolve(path)) == place


def test_a_joined_path_is_cleaned_by_its_text() -> None:
    """So ``s/..`` in a target is cancelled, although ``s`` leads elsewhere; containerd's fs.RootPath does that."""
    resolver = _resolver(s="/a/b", t="s/../c", in_t="../../s/../c")
    assert resolver.resolve(b"/t/x") == (b"c", b"x")
    assert resolver.resolve(b"t") == (b"a", b"c")
    assert resolver.resolve(b"t/x") == (b"c", b"x")
    assert resolver.resolve(b"a/b/t") == (b"c",)


def test_links_in_the_middle_are_followed_as_the_kernel_does() -> None:
    resolver = _resolver(one="two", two="a/./b", in_three="../../c", four="five", five="a/b/../../c")
    assert resolver.resolve(b"one/three/x") == (b"c", b"x")
    assert resolver.resolve(b"one/missing/x") == (b"a", b"b", b"missing", b"x")
    assert resolver.resolve(b"four/x/y") == (b"c", b"x", b"y")


def test_a_link_above_the_root_in_the_middle_sees_nothing() -> None:
    resolver = _resolver(one="two", two="../a/b", in_three="../../c")
    assert resolver.resolve(b"one/b/three") == (b"a", b"b", b"b", b"three")


def test_an_absolute_link_in_the_middle_sees_nothing() -> None:
    resolver = _resolver(one="two", two="/a", in_b="x")
    assert resolver.resolve(b"one/b/x") == (b"a", b"b", b"x")


def test_find() -> None:
    resolver = _resolver()
    found = resolver.find((b"a", b"b"))
    assert found is not None
    assert found.is_dir
    assert resolver.find((b"a", b"x", b"y")) is None
