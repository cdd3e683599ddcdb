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


@pytest.mark.parametrize(
    ("key", "host", "repository", "matches"),
    [
        ("registry.example.com", "registry.example.com", "a/b", True),
        ("https://registry.example.com", "registry.example.com", "a", True),
        ("https://registry.example.com/v1/", "registry.example.com", "a", True),
        ("http://registry.example.com/v2", "registry.example.com", "a", True),
        ("Registry.Example.COM", "registry.example.com", "a", True),
        ("registry.example.com", "registry.example.com:5000", "a", False),
        ("registry.example.com:5000", "registry.example.com", "a", False),
        ("registry.example.com:5000", "registry.example.com:5000", "a", True),
        ("example.com", "registry.example.com", "a", False),
        ("*.example.com", "registry.example.com", "a", True),
        ("*.example.com", "example.com", "a", False),
        ("*.example.com", "a.b.example.com", "a", False),
        ("*.*.example.com", "a.b.example.com", "a", True),
        ("reg*.example.com:5000", "registry.example.com:5000", "a", True),
        ("*", "example.com", "a", False),
        ("*.example.com", "registry.example.com.evil.com", "a", False),
        ("registry.example.com/team", "registry.example.com", "team/app", True),
        ("registry.example.com/team", "registry.example.com", "team", True),
        ("registry.example.com/team/", "registry.example.com", "team/app", True),
        ("registry.example.com/team/", "registry.example.com", "team", False),
        ("registry.example.com/team", "registry.example.com", "team-b/app", True),
        ("registry.example.com/team/", "registry.example.com", "team-b/app", False),
        ("registry.example.com/team", "registry.example.com", "other/team", False),
        ("r.example.com:8083/repository/internal", "r.example.com:8083", "repository/internal/app", True),
        ("r.example.com:8083/repository/internal", "r.example.com:8083", "repository/app", False),
        ("https://index.docker.io/v1/", "docker.io", "library/nginx", True),
        ("docker.io", "docker.io", "library/nginx", True),
        ("registry-1.docker.io", "docker.io", "library/nginx", True),
        ("docker.io/team", "docker.io", "library/nginx", False),
        ("[::1]:5000", "[::1]:5000", "a", True),
        ("[::1]:5000", "[::1]:5001", "a", False),
        ("[::1]", "[::1]", "a", True),
        ("127.0.0.1:5000", "127.0.0.1:5000", "a", True),
        ("", "docker.io", "a", False),
    ],
)
def test_keys(key: str, host: str, repository: str, matches: bool) -> None:
    assert most_specific_first([(key, "found")], host, repository) == (["found"] if matches else [])


def test_the_most_specific_key_comes_first() -> None:
    keys = ["*.example.com", "*.example.com/team", "r.example.com", "r.example.com/team", "r.example.com/team/app"]

    def order(host: str, repository: str) -> list[str]:
        return most_specific_first([(key, key) for key in keys], host, repository)

    assert order("r.example.com", "team/app") == keys[4:1:-1] + keys[1::-1]
    assert order("r.example.com", "team/other") == [keys[3], keys[2], keys[1], keys[0]]
    assert order("r.example.com", "x") == ["r.example.com", "*.example.com"]
    assert order("q.example.com", "team/x") == ["*.example.com/team", "*.example.com"]
