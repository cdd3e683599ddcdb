"""The filter language against what containerd's pkg/filters does with the same text."""

from __future__ import annotations

import datetime as dt

import pytest

from imagecache.errors import InvalidSnapshotArgument
from imagecache.snapshotter.filters import parse
from imagecache.snapshotter.snapshot import Info, Kind

NOW = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
CHAIN = "sha256:" + "a" * 64


def info(name: str, parent: str = "", kind: Kind = Kind.COMMITTED, **labels: str) -> Info:
    return Info(kind, name, parent, labels, NOW, NOW)


ALL = [
    info("base"),
    info("app", "base", Kind.ACTIVE, l="1"),
    info("shown", "base", Kind.VIEW, l="2", **{"x.y/z": "a b", "containerd.io/snapshot.ref": CHAIN}),
    info('odd"na,me', 'odd"na,me', l="ü"),
]


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        ([], ["base", "app", "shown", 'odd"na,me']),
        ([""], ["base", "app", "shown", 'odd"na,me']),
        (["name==base", ""], ["base", "app", "shown", 'odd"na,me']),
        (["name==base"], ["base"]),
        (["name == base"], ["base"]),
        (["name==base", "name==app"], ["base", "app"]),
        (["kind==view"], ["shown"]),
        (["kind==committed,parent==base"], []),
        (["kind!=committed,parent==base"], ["app", "shown"]),
        (['parent==""'], ["base"]),
        (['parent!=""'], ["app", "shown", 'odd"na,me']),
        (["labels.l"], ["app", "shown", 'odd"na,me']),
        (["labels.l==2"], ["shown"]),
        (["labels.l!=2"], ["base", "app", 'odd"na,me']),
        (['labels."x.y/z"=="a b"'], ["shown"]),
        (["labels"], []),
        (["nothing"], []),
        (["name.more==base"], ["base"]),
        ([f'labels."containerd.io/snapshot.ref"=={CHAIN},parent=="base"'], ["shown"]),
        ([r'name=="odd\"na,me"'], ['odd"na,me']),
        ([r'labels.l=="\u00fc"'], ['odd"na,me']),
        ([r'labels.l=="\303\274"'], ['odd"na,me']),
        ([r'labels.l=="\xc3\xbc"'], ['odd"na,me']),
        ([r'labels.l=="\U000000fc"'], ['odd"na,me']),
        (["name~=^a"], ["app"]),
        (["name~=/^(app|base)$/"], ["base", "app"]),
        (["name~=|^s|"], ["shown"]),
        ([r"name~=/a\/b/"], []),
        (["name~=/[/"], []),
        (["labels.none~=^$"], ["base", "app", "shown", 'odd"na,me']),
    ],
)
def test_matches(texts: list[str], names: list[str]) -> None:
    wanted = parse(texts)

    assert [one.name for one in ALL if wanted.matches(one)] == names


@pytest.mark.parametrize(
    "text",
    [
        "name=base",
        "name===base",
        "name==",
        "name==a b",
        "name==a,",
        ",name==a",
        "name.==a",
        "name==/a/",
        "name==|a|",
        'name=="a',
        'name=="a"b',
        r'name=="\q"',
        r'name=="\777"',
        r'name=="\U00110000"',
        "==a",
        "name~",
        "-",
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(InvalidSnapshotArgument):
        parse([text])


def test_what_an_index_may_be_asked() -> None:
    one = parse([f'labels."containerd.io/snapshot.ref"=={CHAIN},parent=="p"'])

    assert one.required("labels", "containerd.io/snapshot.ref") == CHAIN
    assert one.required("parent") == "p"
    assert one.required("name") is None
    assert parse(["name==a", "name==b"]).required("name") is None
    assert parse(["name!=a"]).required("name") is None
