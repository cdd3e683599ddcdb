"""Cache ids and uids: from a random source that the caller owns, or derived from an object's own identity.

Users' tooling matches ``imc-`` and 20 lowercase alphanumerics, so ids have exactly that shape. It must not know which
ids exist.
"""

from __future__ import annotations

import hashlib
import random
import re
import string
import uuid

PREFIX = "imc-"
LENGTH = 20
_ALPHABET = string.ascii_lowercase + string.digits
_SHAPE = re.compile(rf"{PREFIX}[a-z0-9]{{{LENGTH}}}")


def new_cache_id(source: random.Random) -> str:
    """103 random bits, so that two caches never get the same id in practice."""
    return PREFIX + "".join(source.choices(_ALPHABET, k=LENGTH))


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


def new_uid(source: random.Random) -> str:
    """A version 4 UUID, as the Kubernetes API gives every object."""
    return str(uuid.UUID(int=source.getrandbits(128), version=4))
