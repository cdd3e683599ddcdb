from __future__ import annotations

from collections.abc import Iterator

import pytest

from imagecache import errors
from imagecache.errors import ImageCacheError, InternalError, by_name


def tree(kind: type[ImageCacheError]) -> Iterator[type[ImageCacheError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from tree(below)


@pytest.mark.parametrize("kind", [kind for kind in tree(ImageCacheError) if kind.__module__ == errors.__name__])
def test_every_error_is_found_by_its_reason(kind: type[ImageCacheError]) -> None:
    assert by_name(kind("x").reason) is kind


@pytest.mark.parametrize("name", ["", "NoSuchError", "NextStep", "by_name", "enum", "__name__", "ValueError"])
def test_what_names_no_error_is_internal(name: str) -> None:
    assert by_name(name) is InternalError
