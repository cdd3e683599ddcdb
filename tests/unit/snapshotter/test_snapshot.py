"""What keys, labels and names say, and what they cannot make us believe."""

from __future__ import annotations

import pytest

from imagecache.snapshotter.snapshot import REF_LABEL, chain_of, is_unpack, served_name, target_of

CHAIN = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("key", "ref", "target"),
    [
        (f"k8s.io/12/extract-162738-AbC_ {CHAIN}", CHAIN, CHAIN),
        (f"extract-1-abcd {CHAIN}", CHAIN, CHAIN),
        (f"k8s.io/12/extract-162738-AbC_ {CHAIN}", "", None),
        ("k8s.io/12/extract-162738-AbC_", "sha256:../../etc/passwd", None),
        ("k8s.io/12/extract-162738-AbC_", CHAIN.upper(), None),
        ("k8s.io/12/5f1b7e0c", CHAIN, None),
        ("k8s.io/12/pod/extract-1-abcd", CHAIN, None),
        ("extract-ns/12/container", CHAIN, None),
    ],
)
def test_only_an_unpack_of_a_digest_has_a_target(key: str, ref: str, target: str | None) -> None:
    assert target_of(key, {REF_LABEL: ref} if ref else {}) == target


def test_an_unpack_is_known_by_its_key() -> None:
    assert is_unpack("moby/3/extract-1-a sha256:b")
    assert not is_unpack("moby/3/container")


@pytest.mark.parametrize(
    ("name", "chain"),
    [(f"k8s.io/7/{CHAIN}", CHAIN), (CHAIN, CHAIN), ("k8s.io/7/base", None), (f"k8s.io/7/{CHAIN}/x", None), ("", None)],
)
def test_a_name_may_end_with_a_chain(name: str, chain: str | None) -> None:
    assert chain_of(name) == chain


def test_the_name_of_a_served_snapshot_follows_from_what_it_is() -> None:
    chain = chain_of(CHAIN)
    assert chain is not None
    name = served_name("k8s.io/7/extract-1-a", chain, "")

    assert name == served_name("k8s.io/99/extract-2-b", chain, "")
    assert len({name, served_name("moby/7/x", chain, ""), served_name("k8s.io/7/x", chain, "p")}) == 3
    assert chain_of(name) == CHAIN
    assert served_name("extract-1-a", chain, "").startswith("imagecache/")
