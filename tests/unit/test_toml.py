import datetime as dt
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagecache.toml import Table, dumps

_scalar = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(st.characters(codec="utf-8"))
)
_key = st.text(st.characters(codec="utf-8"), max_size=8)
_value = st.recursive(
    _scalar,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_key, inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(_key, _value, max_size=4))
def test_what_is_written_is_read_again(document: Table) -> None:
    assert tomllib.loads(dumps(document)) == document


def test_the_form_people_know() -> None:
    document: Table = {
        "version": 3,
        "plugins": {"io.containerd.transfer.v1.local": {"unpack_config": [{"platform": "linux/amd64"}]}},
        "proxy_plugins": {"imagecache": {"type": "snapshot", "exports": {"root": "/x"}}},
    }
    assert dumps(document) == (
        "version = 3\n"
        '\n[[plugins."io.containerd.transfer.v1.local".unpack_config]]\nplatform = "linux/amd64"\n'
        '\n[proxy_plugins.imagecache]\ntype = "snapshot"\n'
        '\n[proxy_plugins.imagecache.exports]\nroot = "/x"\n'
    )


def test_times() -> None:
    document: Table = {"at": dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "on": dt.date(2024, 1, 2)}
    assert tomllib.loads(dumps(document)) == document


def test_what_toml_has_no_word_for() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        dumps({"x": None})
