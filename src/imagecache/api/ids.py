"""Cache ids, derived from an object's own identity.

Users' tooling matches ``imc-`` and 20 lowercase alphanumerics, so ids have exactly that shape. It must not know which
ids exist.
"""

from __future__ import annotations

import hashlib
import re
import string

PREFIX = "imc-"
LENGTH = 20
_ALPHABET = string.ascii_lowercase + string.digits
_SHAPE = re.compile(rf"{PREFIX}[a-z0-9]{{{LENGTH}}}")


def derived_cache_id(uid: str, generation: int) -> str:
    """Always the same id for an object and generation: after a restart, and in another controller."""
    # 256 bits for 103: the bias of the division is far below what anyone could observe
    number = int.from_bytes(hashlib.sha256(f"{uid}/{generation}".encode()).digest(), "big")
    letters = ""
    for _ in range(LENGTH):
        number, index = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[index]
    return PREFIX + letters


def is_cache_id(text: str) -> bool:
    return _SHAPE.fullmatch(text) is not None
