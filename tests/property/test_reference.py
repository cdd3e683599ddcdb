"""References: what is accepted can be written down again, and nothing but InvalidReference comes out."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from imagecache.errors import InvalidReference
from imagecache.oci.reference import Reference

WORDS = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
COMPONENTS = st.builds(
    lambda first, pairs: first + "".join(separator + word for separator, word in pairs),
    WORDS,
    st.lists(st.tuples(st.sampled_from([".", "_", "__", "-", "--"]), WORDS), max_size=2),
)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join)
DOMAINS = st.sampled_from(["", "localhost/", "quay.io/", "127.0.0.1:5000/", "[::1]:5000/", "docker.io/", "Host/"])
TAGS = st.just("") | st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
DIGESTS = st.just("") | st.from_regex(r"@sha256:[0-9a-f]{64}", fullmatch=True)


def _names_a_host(text: str) -> bool:
    """A first component with a dot is a host, and a host has no underscore: ``0.0_0/0`` is refused."""
    first, slash, _rest = text.partition("/")
    return not (slash and "." in first and "_" in first)


VALID = st.builds(lambda *parts: "".join(parts), DOMAINS, PATHS, TAGS, DIGESTS).filter(_names_a_host)


@given(VALID)
def test_the_name_of_a_reference_is_a_reference_with_that_name(text: str) -> None:
    reference = Reference.parse(text)

    again = Reference.parse(reference.name)

    assert again.name == reference.name
    assert (again.domain, again.path, again.tag, again.digest) == (
        reference.domain,
        reference.path,
        reference.tag,
        reference.digest,
    )
    assert Reference.parse(reference.cri_name).cri_name == reference.cri_name


@given(st.text(max_size=80) | st.text(alphabet="aA0:/@.-_[] \n", max_size=40) | VALID.map(lambda text: text + "/"))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return

    assert re.fullmatch(r"[\x21-\x7e]+", reference.name)
    assert ".." not in reference.path.split("/")
    assert len(reference.path) <= 255
    assert reference.tag or reference.digest
