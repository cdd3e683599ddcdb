"""``WWW-Authenticate``: the credentials that a registry accepts.

Source: RFC 9110 §11.6.1 (several challenges in one field, token68, quoted strings), RFC 6750 and distribution's token
specification for ``realm``, ``service`` and ``scope``. As in containerd (``core/remotes/docker/auth/parse.go``) a value
without quotes is a token, so it ends at a colon or a slash, there are no blanks around ``=``, and what follows a
parameter without a comma is not read. It only parses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # token, RFC 9110 §5.6.2
_SCHEME = re.compile(rf"[\s,]*({_WORD})(?:[ \t]+|(?=,)|$)")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_PARAMETER = re.compile(rf'[\s,]*({_WORD})=(?:"((?:[^"\\]|\\.)*)"|((?:{_WORD})?))[ \t]*')
_END = re.compile(r",|$")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme that the server accepts. Names are lower case; of a repeated parameter the last value counts."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(fields: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges, in the order of the header fields. Malformed ones are left out."""
    return tuple(challenge for text in fields for challenge in _parse(text))


def find(challenges: Iterable[Challenge], scheme: str) -> Challenge | None:
    return next((challenge for challenge in challenges if challenge.scheme == scheme), None)


def _parse(text: str) -> list[Challenge]:
    challenges: list[Challenge] = []
    position = 0
    while match := _SCHEME.match(text, position):
        position = match.end()
        parameters: dict[str, str] = {}
        scheme = match[1].lower()
        # these two have parameters alone, whose last one may be empty: then it looks like a token68
        token68 = None if scheme in {"basic", "bearer"} else _TOKEN68.match(text, position)
        if token68:
            position = token68.end()
        else:
            while parameter := _PARAMETER.match(text, position):
                position = parameter.end()
                value = parameter[3] if parameter[2] is None else _ESCAPE.sub(r"\1", parameter[2])
                parameters[parameter[1].lower()] = value
                if not _END.match(text, position):
                    position = len(text)
        challenges.append(Challenge(scheme=scheme, parameters=parameters))
    return challenges
