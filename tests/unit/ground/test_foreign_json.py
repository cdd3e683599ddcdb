"""JSON of others: what Go's encoding/json makes of it, case by case."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from imagecache import foreign_json
from imagecache.errors import MalformedDocument


class Inner(msgspec.Struct, rename="camel"):
    os_version: str = msgspec.field(default="", name="os.version")
    count: int = 0


class Part(msgspec.Struct):
    b: int = 0


class Document(msgspec.Struct, rename="camel"):
    media_type: str = ""
    size: int = 0
    share: float | None = None
    tags: tuple[str, ...] = ()
    inner: Inner | None = None
    several: tuple[Inner, ...] = ()
    labels: dict[str, str] = {}
    raw: Any = msgspec.UNSET
    octets: str | tuple[int, ...] = ""


def decode(data: bytes, *, conflicts: bool = True) -> Document:
    return foreign_json.decode(data, Document, conflicts=conflicts)


READ: dict[str, tuple[bytes, Document]] = {
    "as written": (
        b'{"mediaType":"a","size":3,"inner":{"os.version":"1"},"tags":["x"]}',
        Document(media_type="a", size=3, inner=Inner(os_version="1"), tags=("x",)),
    ),
    "null for every field": (
        b'{"mediaType":null,"size":null,"share":null,"tags":null,"inner":null,"several":null,"labels":null}',
        Document(),
    ),
    "null inside": (
        b'{"tags":["a",null],"labels":{"a":null},"several":[null,{"count":null}]}',
        Document(tags=("a", ""), labels={"a": ""}, several=(Inner(), Inner())),
    ),
    "null in either form of a field": (b'{"octets":[1,null]}', Document(octets=(1, 0))),
    "null for a field of two forms": (b'{"octets":null}', Document()),
    "half a surrogate pair in a field of two forms": (b'{"octets":"\\ud800"}', Document(octets="\ufffd")),
    "null for the document": (b"null", Document()),
    "null that is kept": (b'{"raw":null}', Document(raw=None)),
    "capitals": (b'{"MediaType":"a","SIZE":3,"Inner":{"OS.Version":"1"}}', Document("a", 3, inner=Inner("1"))),
    "letters that fold to ours": (
        '{"\u017fize":3,"tag\u017f":["\u212a"]}'.encode(),
        Document(size=3, tags=("\u212a",)),
    ),
    "half a surrogate pair": (
        b'{"mediaType":"a\\ud800b","labels":{"\\udc00":"x"}}',
        Document("a\ufffdb", labels={"\ufffd": "x"}),
    ),
    "half a pair where nobody looks": (b'{"size":3,"config":{"Labels":{"a":"\\ud83d"}}}', Document(size=3)),
    "a whole surrogate pair": (b'{"mediaType":"\\ud83d\\ude00"}', Document("\U0001f600")),
    "bytes that are no UTF-8": (b'{"mediaType":"a\xffb"}', Document("a\ufffdb")),
    "unknown keys": (b'{"size":3,"new":{"size":"x"},"new":[1e400,' + b"9" * 5000 + b"]}", Document(size=3)),
    "the same twice": (b'{"size":3,"tags":["a"],"Size":3,"tags":["a"]}', Document(size=3, tags=("a",))),
    "escapes in a key": (b'{"\\u0073ize":3}', Document(size=3)),
    "colons in texts": (
        b'{"mediaType":":","labels":{"a":"{\\"size\\": 5}"}}',
        Document(":", labels={"a": '{"size": 5}'}),
    ),
    "an integer for a fraction": (b'{"share":3}', Document(share=3.0)),
    "blanks": (b' \n{ "size" :\t3 } \r\n', Document(size=3)),
}


@pytest.mark.parametrize("case", READ)
def test_what_go_reads(case: str) -> None:
    data, expected = READ[case]

    assert decode(data) == expected


def deep(levels: int, inside: bytes = b"", opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * levels + inside + closing * levels


NOT_JSON = [
    deep(10_000),  # with the object around it one more than Go takes
    deep(1500, b"nonsense"),
    deep(1500, b"1,"),
    deep(1500, b'"'),
    deep(1500, b'"a\\"'),
    deep(1500, b"]"),
    deep(1500, b"}"),
    deep(1500, b"["),
    deep(1500, b"{1:2}"),
    deep(1500) + b"[",
    deep(1500) + b"]",
    deep(1500) + deep(1500),
    deep(198, deep(1500) + deep(1500)),
    deep(198, b"-" + deep(1500)),
    deep(198, b"1" + deep(1500)),
    deep(1500, opening=b"[{"),
    b"[" * 1500 + b"]" * 1400,
    b"[" * 1500 + b'"' + b"]" * 1500 + b'\\"',
]
"""Some 1500 levels, of which the mistake is at the bottom, or behind them."""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{}x",
        b"[]",
        b'"text"',
        b"<html>",
        b"\xef\xbb\xbf{}",
        b'{"size":"3"}',
        b'{"size":3.5}',
        b'{"size":NaN}',
        b'{"mediaType":5}',
        b'{"mediaType":["a"]}',
        b'{"mediaType":"a\nb"}',
        b'{"mediaType":"\\x"}',
        b'{"tags":{"a":"b"}}',
        b'{"labels":["a"]}',
        b'{"labels":{"a":5}}',
        b'{"inner":[]}',
        b'{"several":[5]}',
        b'{"inner":{"count":"\xff"}}',
        b"[" * 100_000,
        b'{"new":' + b"[" * 100_000,
        *(b'{"size":3,"new":' + deep + b"}" for deep in NOT_JSON),
    ],
)
def test_what_go_refuses(data: bytes) -> None:
    with pytest.raises(MalformedDocument):
        decode(data)


DEEP = [
    deep(1500),
    deep(9_998),  # with the objects around it as many as Go takes
    deep(1500, b'"]", "[{", "a\\"]", [], {}, {"a": [1]}, null'),
    deep(1500, b"1", b'{"new": ', b"}"),
    deep(1500, b"1", b'[{"size": 5, "size": 6, "new": ', b"}]"),
    deep(1500, b"1", b'["]]]]\\\\", ', b', "[[[["]'),
    b"[" + b",".join([deep(1500)] * 5) + b"]",
]


@pytest.mark.parametrize("value", DEEP)
def test_what_go_passes_over_however_deep(value: bytes) -> None:
    data = b'{"new":' + value + b',"size":3,"raw":{"a":' + value + b',"b":5},"tags":["a",null]}'

    found = decode(data)
    assert (found.size, found.tags) == (3, ("a", ""))
    assert foreign_json.read(found.raw, Part) == Part(5)
    assert foreign_json.is_object(data)
    with pytest.raises(MalformedDocument, match="Expected `str`"):
        decode(b'{"tags":[' + value + b"]}")


def test_an_escape_in_a_long_text_above_what_is_deep() -> None:
    text = b"a\\n" * 1_000_000
    assert decode(b'{"new":["' + text + b'",' + deep(1500) + b'],"size":3}').size == 3


CONFLICTS = [
    (b'{"size":1,"size":2}', Document(size=2)),
    (b'{"size":1,"Size":2}', Document(size=2)),
    (b'{"SIZE":2,"size":1}', Document(size=1)),
    (b'{"size":1,"si\\u007ae":2}', Document(size=2)),
    (b'{"tags":["a"],"tags":null}', Document()),
    (b'{"raw":[1],"raw":null}', Document(raw=None)),
    (b'{"inner":{"count":1,"Count":2}}', Document(inner=Inner(count=2))),
    (b'{"a\\\\":1,"size":1,"size":2}', Document(size=2)),
    (b'{"labels":{"a":":"},"size":1,"size":2}', Document(size=2, labels={"a": ":"})),
]


@pytest.mark.parametrize(("data", "last"), CONFLICTS)
def test_two_values_of_one_field(data: bytes, last: Document) -> None:
    assert decode(data, conflicts=False) == last
    with pytest.raises(MalformedDocument, match="occurs twice, with two values"):
        decode(data)


@pytest.mark.parametrize("levels", [100, 600, 900, 1500])
def test_two_deep_values_of_one_field(levels: int) -> None:
    data = b'{"size":3,"raw":%s,"raw":%s}' % (deep(levels, b"1"), deep(levels + 1, b"1"))

    assert decode(data, conflicts=False).size == 3
    with pytest.raises(MalformedDocument, match="raw occurs twice, with two values"):
        decode(data)


def test_parts_that_are_read_later() -> None:
    for data in (b'{"raw":{"a":{"COUNT":null}}}', b'{"raw":{"a":{"count":1},"a":{"Count":2,"os.version":"\\ud800"}}}'):
        parts = foreign_json.read(decode(data).raw, dict[str, Inner], conflicts=False)
        assert parts["a"] in (Inner(), Inner("\ufffd", 2))
    with pytest.raises(MalformedDocument):
        foreign_json.read(decode(b'{"raw":{"a":5}}').raw, dict[str, Inner])


def test_halves_of_surrogate_pairs() -> None:
    value = {"a\ud83d": ["\ud83d\ude00", ("\ude00\ud83d", 1, None)], "b": {"c": "\u00e4"}}

    assert foreign_json.whole(value) == {"a\ufffd": ["\U0001f600", ["\ufffd\ufffd", 1, None]], "b": {"c": "\u00e4"}}


def test_a_message_shows_nothing_of_the_document() -> None:
    for data in (
        b'{"size":"s3cr3t"}',
        b'{"mediaType":"s3cr3t',
        b'{"labels":{"s3cr3t":5}}',
        b'{"size":1,"size":5,"a":"s3cr3t"}',
    ):
        with pytest.raises(MalformedDocument) as caught:
            decode(data)
        error: BaseException | None = caught.value
        while error is not None:
            assert "s3cr3t" not in f"{error} {error!r} {vars(error)!r}"
            error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (b'{"size":3,"new":{"a":[{"b":1}]}}', True),
        (b'{"Size":3}', False),
        (b'{"a":1,"a":1}', False),
        (b'{"a\\\\":1,"size":1,"size":2}', False),
    ],
)
def test_the_fast_way_is_taken_only_where_it_means_the_same(data: bytes, *, plain: bool) -> None:
    assert (foreign_json._plain(data, Document) is not foreign_json._ODD) is plain


@pytest.mark.parametrize(
    ("data", "is_object"),
    [(b"{}", True), (b'{"a":null}', True), (b"[]", False), (b"null", False), (b"", False), (b"x", False)],
)
def test_is_object(data: bytes, *, is_object: bool) -> None:
    assert foreign_json.is_object(data) is is_object


@pytest.mark.parametrize(
    "data",
    [
        b'{"history":[' + b"{}," * 300 + b"{}]}",
        b"[" * 200 + b"]" * 200,
        b'{"a":{' + b",".join(b'"%d":1' % number for number in range(300)) + b"}}",
        b'{"a":[' + b'"x",' * 300 + b'"x"]}',
    ],
)
def test_values_are_counted_before_any_is_made(data: bytes) -> None:
    """8 MiB of ``history: [{},...]`` took five seconds and 366 MB."""
    with pytest.raises(MalformedDocument, match="more than json_values, 100, values"):
        foreign_json.decode(data, Document, values=100)


def test_what_texts_hold_are_no_values() -> None:
    script = '{"mediaType":"' + r"a,b,{[\"" * 200 + '"}'
    assert foreign_json.decode(script.encode(), Document, values=10).media_type == 'a,b,{["' * 200


def test_eight_mebibytes_of_empty_objects_are_refused_as_they_are() -> None:
    data = b'{"history":[' + b"{}," * (2 << 20) + b"{}]}"
    with pytest.raises(MalformedDocument, match="json_values"):
        decode(data)
    assert not foreign_json.is_object(data)
