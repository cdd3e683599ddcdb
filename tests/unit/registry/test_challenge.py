"""WWW-Authenticate: what registries send, and what they should not."""

from __future__ import annotations

import pytest

from imagecache.registry.challenge import Challenge, find, parse_challenges


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            ['Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull"'],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull",
                    },
                )
            ],
        ),
        (['Basic realm="a, \\"b\\" = c"'], [("basic", {"realm": 'a, "b" = c'})]),
        (["Basic"], [("basic", {})]),
        (['BEARER Realm="r" , SERVICE=s'], [("bearer", {"realm": "r", "service": "s"})]),
        (
            ['Negotiate, Basic realm="x", Bearer realm="y",scope="z"'],
            [("negotiate", {}), ("basic", {"realm": "x"}), ("bearer", {"realm": "y", "scope": "z"})],
        ),
        (["NTLM TlRMTVNTUAAC==, Basic realm=x"], [("ntlm", {}), ("basic", {"realm": "x"})]),
        (['Basic realm="x"', 'Bearer realm="y"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (["Bearer realm=https://auth.example.com/token"], [("bearer", {"realm": "https"})]),
        (['Bearer realm="a",service=reg:5000,scope="x"'], [("bearer", {"realm": "a", "service": "reg"})]),
        (['Bearer realm="a",service= "b",scope="x"'], [("bearer", {"realm": "a", "service": ""})]),
        (['Bearer realm="a",realm="b"'], [("bearer", {"realm": "b"})]),
        (['Bearer service=,realm="a"'], [("bearer", {"service": "", "realm": "a"})]),
        (['Bearer realm="a",error=,service="s"'], [("bearer", {"realm": "a", "error": "", "service": "s"})]),
        (["Bearer realm="], [("bearer", {"realm": ""})]),
        (['Bearer error="insufficient_scope",realm=""'], [("bearer", {"error": "insufficient_scope", "realm": ""})]),
        (['Bearer realm="never ends'], [("bearer", {"realm": ""})]),
        (['Bearer realm="a";service="b",scope="c"'], [("bearer", {"realm": "a"})]),
        (["Bearer realm=a;service=b"], [("bearer", {"realm": "a"})]),
        (['Basic realm="a" Bearer realm="b"'], [("basic", {"realm": "a"})]),
        ([""], []),
        ([", ,"], []),
        (['="x"'], []),
    ],
)
def test_parsing(fields: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in parse_challenges(fields)] == expected


def test_finding() -> None:
    basic, bearer = Challenge("basic", {}), Challenge("bearer", {})

    assert find([basic, bearer], "bearer") is bearer
    assert find([basic], "bearer") is None
