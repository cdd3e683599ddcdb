"""What token services and registries say that containerd reads, and what it refuses.

Seen with containerd 1.6 and 2.4 by tests/peers/test_token_services.py.
"""

from __future__ import annotations

from typing import Final

TOKEN: Final = "abc"  # noqa: S105 - of a fake registry
"""The token that each accepted answer gives."""

READ: Final = {
    "nulls": '{"token": "abc", "access_token": null, "expires_in": null, "issued_at": null}',
    "another case": '{"Token": null, "Access_Token": "abc", "refresh_token": "\\ud800"}',
    "two tokens": '{"token": "other", "access_token": "abc"}',
    "text behind": '\n{"token": "abc"} {"token": "other"} and more',
    "moment and scope": '{"token": "abc", "scope": 5, "expires_in": 300, "issued_at": "2026-02-28T00:00:00.5+01:00"}',
    "deep, text behind": '{"token": "abc", "deep": ' + "[" * 1500 + "]" * 1500 + "} and more",
    "no seconds": '{"token": "abc", "expires_in": -1}',
}
REFUSED: Final = {
    "nothing": "",
    "no token": "{}",
    "an empty token": '{"token": ""}',
    "a number": '{"token": 5}',
    "a line break": '{"token": "a\\r\\nb"}',
    "a page": "<html>",
    "null first": 'null {"token": "abc"}',
    "never ends": '{"token": "abc"',
    "a part of a second": '{"token": "abc", "expires_in": 300.5}',
    "more than 64 bits": '{"token": "abc", "expires_in": 9223372036854775808}',
    "seconds in quotes": '{"token": "abc", "expires_in": "300"}',
    "no moment": '{"token": "abc", "issued_at": "x"}',
    "no such day": '{"token": "abc", "issued_at": "2026-02-30T00:00:00Z"}',
    "another refresh token": '{"token": "abc", "refresh_token": 5}',
    "another access token": '{"token": "abc", "access_token": 5}',
}

CHALLENGES: Final = {
    'Bearer realm="{realm}",service="fake",scope="{scope}"': True,
    'bearer REALM="{realm}" , Service=fake': True,
    'Bearer realm="{realm}",service=reg:5000,scope="{scope}"': True,
    'Bearer realm="{realm}";service="fake"': True,
    'Bearer service=,realm="{realm}"': True,
    'Bearer realm="https://never.example/token",realm="{realm}"': True,
    "Bearer realm={realm}": False,
    'Bearer realm = "{realm}"': False,
    'Bearer realm="",service="fake"': False,
}
"""Whether containerd gets a token after this ``WWW-Authenticate``."""
