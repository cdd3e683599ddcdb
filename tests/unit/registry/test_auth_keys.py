"""Keys of auths: globs, and the order in which several are tried. All but globs in brackets are kubelet's too."""

from __future__ import annotations

import pytest

from imagecache.registry.auth_keys import most_specific_first


def found(keys: list[str], host: str, repository: str = "a") -> list[str]:
    return most_specific_first([(key, key) for key in keys], host, repository)


@pytest.mark.parametrize(
    ("key", "host", "matches"),
    [
        ("[rs].io", "r.io", True),
        ("[rs].io", "s.io", True),
        ("[rs].io", "t.io", False),
        ("[^r].io", "s.io", True),
        ("[^r].io", "r.io", False),
        ("x[^r].io", "xs.io", True),
        ("x[^r].io", "xr.io", False),
        ("[!r].io", "s.io", False),
        ("[!r].io", "r.io", True),
        ("[rs].io:5000", "r.io:5000", True),
        ("[rs].io:5000", "r.io", False),
        ("[a.b].io", "a.io", False),
        ("[rs.io", "r.io", False),
        ("?.io", "r.io", True),
        ("[2001:db8::1]", "[2001:db8::1]", True),
        ("[2001:DB8::1]:5000", "[2001:db8::1]:5000", True),
        ("[2001:db8::1]:5000", "[2001:db8::1]", False),
        ("[::1]", "1", False),
    ],
)
def test_globs(key: str, host: str, *, matches: bool) -> None:
    assert found([key], host) == ([key] if matches else [])


@pytest.mark.parametrize(
    ("key", "repository", "matches"),
    [
        ("r.io/team", "team", True),
        ("r.io/team", "team/x", True),
        ("r.io/team", "team-b/x", True),
        ("r.io/te", "team/x", True),
        ("*.io/team", "team-b/x", True),
        ("https://r.io/v1/team", "team-b/x", True),
        ("r.io/team/", "team/x", True),
        ("r.io/team/", "team", False),
        ("r.io/team/", "team-b/x", False),
        ("r.io/te*", "team/x", False),
        ("r.io//team", "team/x", False),
        ("r.io/v1/", "team", True),
        ("r.io/v1beta", "team", False),
        ("r.io/v1beta", "v1beta/x", True),
        ("r.io/", "team", True),
    ],
)
def test_a_path_is_the_start_of_a_text(key: str, repository: str, *, matches: bool) -> None:
    assert found([key], "r.io", repository) == ([key] if matches else [])


@pytest.mark.parametrize(
    ("host", "keys"),
    [
        ("r.io", ["r.io/team/x", "r.io/team", "r.io/te", "r.io", "*.io/team/x", "*.io"]),
        ("r.io", ["r.io", "r*.io", "?.io", "*.io/team/x"]),
        ("1.io", ["?.io", "1.io/team", "1.io", "*.io"]),
        ("r.io:5000", ["r.io:5000/team", "https://r.io:5000", "*.io:5000"]),
        ("docker.io", ["docker.io/team", "docker.io", "registry-1.docker.io", "https://index.docker.io/v1/"]),
    ],
)
def test_keys_are_sorted_as_text_backwards(host: str, keys: list[str]) -> None:
    """kubelet looks at other names of Docker Hub when no key has this one, so they come last."""
    assert found(keys[::-1], host, "team/x") == keys
    assert found(keys, host, "team/x") == keys


def test_equal_keys_stay_in_order() -> None:
    keys = ["https://r.io/team", "r.io/team", "http://r.io/v1/team", "R.io/team"]

    assert found(keys, "r.io", "team/x") == keys
