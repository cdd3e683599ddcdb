"""Files that are named on the command line, and ``-``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from imagecache.errors import InvalidInput
from imagecache.oserrors import from_os_error

STANDARD = Path("-")
"""stdin or stdout."""


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """The file, or stdin for ``-``. Raises InvalidInput when it does not exist, StoreError for other failures."""
    if path == STANDARD:
        yield sys.stdin.buffer
        return
    try:
        stream = path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise InvalidInput(f"{path}: {error.strerror}", hint="check the path") from error
    except OSError as error:
        raise from_os_error(error, path) from error
    with stream:
        yield stream


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears, complete, only when the block succeeds; stdout for ``-``. Raises StoreError."""
    if path == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    partial = path.with_name(f".{path.name}.tmp")  # in the same directory: a rename does not cross filesystems
    try:
        stream = partial.open("wb")
    except OSError as error:
        raise from_os_error(error, path) from error
    try:
        with stream:
            yield stream
        partial.replace(path)
    except OSError as error:
        raise from_os_error(error, path) from error
    finally:
        partial.unlink(missing_ok=True)


def text(path: Path) -> str:
    """The whole file as text. Raises InvalidInput, StoreError."""
    with reading(path) as stream:
        try:
            return stream.read().decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{path}: not UTF-8 text", hint="save the file as UTF-8") from error
