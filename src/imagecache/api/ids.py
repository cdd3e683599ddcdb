"""Cache ids, derived from an object's own identity.

Users' tooling matches ``imc-`` and 20 lowercase alphanumerics, so ids have exactly that shape. The first letters are
the object's, so that it can be seen of every id whose it is: an id that a status names although it is another object's
must never be acted on. It must not know which ids exist.
"""

from __future__ import annotations

import functools
import hashlib
import re
import string

PREFIX = "imc-"
LENGTH = 20
_OWNER = 12
"""Letters that are the object's: 62 bits, so that no two objects share them. The others tell its bundles apart."""
_ALPHABET = string.ascii_lowercase + string.digits
_SHAPE = re.compile(rf"{PREFIX}[a-z0-9]{{{LENGTH}}}")


def derived_cache_id(uid: str, after: str = "") -> str:
    """The id of an object's first bundle, or of the one after ``after``: always the same, in every controller."""
    return owner(uid) + _letters(f"{uid}/{after}", LENGTH - _OWNER)


@functools.lru_cache(maxsize=4096)
def owner(uid: str) -> str:
    """What every id of the object begins with."""
    return PREFIX + _letters(uid, _OWNER)


def owner_of(cache_id: str) -> str:
    """``owner`` of the object that has it."""
    return cache_id[: len(PREFIX) + _OWNER]


def is_of(uid: str, text: str) -> bool:
    """Whether it is an id of this object."""
    return bool(uid) and text.startswith(owner(uid)) and is_cache_id(text)


def is_cache_id(text: str) -> bool:
    return _SHAPE.fullmatch(text) is not None


def _letters(text: str, count: int) -> str:
    # 256 bits for 62 at most: the bias of the division is far below what anyone could observe
    number = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    letters = ""
    for _ in range(count):
        number, index = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[index]
    return letters
