"""Images that no cache may name on a node, whoever has made it: those of pods that every node needs.

A record of an image says to every pod of a node what the image's name means, so whoever may create ImageCaches decides
it for the sandbox of each pod, and for the agent itself. These names are therefore the registry's alone to explain
(setting ``reserved_names``). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from imagecache.errors import InvalidReference, InvalidSetting
from imagecache.oci.reference import Reference

_BELOW = "x/y"
"""Any repository; of two parts, since one alone at Docker Hub would be an official image."""


@dataclass(frozen=True, slots=True)
class ReservedNames:
    """``name in reserved``, for the normalised name of an image."""

    repositories: frozenset[str] = frozenset()
    """With every tag and digest."""
    prefixes: tuple[str, ...] = ()
    """Each ends in a slash: everything below."""

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """From the setting, whose entries are written as references are. Raises InvalidSetting."""
        words = tuple(entries)
        prefixes = (_repository(word + _BELOW, word).removesuffix(_BELOW) for word in words if word.endswith("/"))
        return cls(frozenset(_repository(word, word) for word in words if not word.endswith("/")), tuple(prefixes))

    def __contains__(self, name: str) -> bool:
        repository = Reference.parse(name).repository.lower()  # hosts have no case
        return repository in self.repositories or repository.startswith(self.prefixes)


def _repository(text: str, entry: str) -> str:
    try:
        return Reference.parse(text).repository.lower()
    except InvalidReference as error:
        raise InvalidSetting(
            f"reserved_names: {entry[:80]!r} is neither a repository nor a prefix",
            hint="write a repository as in references (registry.example/team/app), or a prefix with a slash at its end",
        ) from error
