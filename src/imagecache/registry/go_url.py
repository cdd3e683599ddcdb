"""Addresses as Go's ``net/url`` reads them: what it refuses is an error here, where yarl would mend it.

containerd parses servers of ``hosts.toml`` and realms of challenges with it. Source: Go 1.26 ``net/url`` (Parse,
parseHost, validOptionalPort, unescape). Pure.
"""

from __future__ import annotations

import re

from yarl import URL

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_AUTHORITY = re.compile(r"(?:[^@]*@)?(?:\[[^\]]*\]|[^:\[\]% ]*)(?::[0-9]*)?")


def parse_url(text: str) -> URL:
    """Raises ValueError, which says what is wrong with the text."""
    before, _, fragment = text.partition("#")
    before = before.partition("?")[0]
    if _CONTROL.search(text):
        raise ValueError(f"a control character in {text[:160]!r}")
    if _ESCAPE.search(before) or _ESCAPE.search(fragment):
        raise ValueError(f"a percent sign in {text[:160]!r} is followed by no two hexadecimal digits")
    if not _AUTHORITY.fullmatch(before.partition("://")[2].partition("/")[0]):
        raise ValueError(f"no host, or no port, in {text[:160]!r}")
    return URL(text)


def has_broken_escape(text: str) -> bool:
    return _ESCAPE.search(text) is not None
