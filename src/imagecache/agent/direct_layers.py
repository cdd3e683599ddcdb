"""Which layer images of a node are to be mounted for reads with O_DIRECT: one small file, for whoever mounts.

``agent.state`` writes it when that set changes, before the runtime's records are made. A mounter, in this process or
another one, asks for the file's version at every start of a container: the state's own files would not do, since each
use of a bundle changes one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from imagecache.errors import InvalidInput
from imagecache.file_version import file_version
from imagecache.oserrors import converting
from imagecache.store.durable_files import fsync_directory, write_atomic
from imagecache.store.layer_name import LayerName
from imagecache.telemetry.log import get_logger

_NAME = "direct-io"
_log = get_logger(__name__)


def read(directory: Path) -> frozenset[LayerName]:
    """Empty without a file, and for one that cannot be read: it is logged, and written anew with the next change."""
    file = directory / _NAME
    try:
        return frozenset(map(LayerName.parse, msgspec.json.decode(file.read_bytes(), type=list[str])))
    except FileNotFoundError:
        return frozenset()
    except (OSError, msgspec.DecodeError, InvalidInput) as error:
        _log.warning("file of the state ignored", file=str(file), problem=str(error))
        return frozenset()


def write(directory: Path, layers: frozenset[LayerName]) -> None:
    """Durable. Raises StoreError, NoSpace, StoreDenied."""
    write_atomic(directory / _NAME, msgspec.json.encode(sorted(map(str, layers))))
    with converting(directory):
        fsync_directory(directory)


class DirectLayers:
    """Whether a layer image is one of them. Thread-safe."""

    def __init__(self, directory: Path, path: Callable[[LayerName], Path]) -> None:
        """``directory`` of the node's state, ``path`` of a layer image in the store."""
        self._directory = directory
        self._path = path
        self._known: tuple[object, frozenset[Path]] = (None, frozenset())
        """A version, and the files of then. Replaced whole, so that no call needs a lock."""

    def __call__(self, image: Path) -> bool:
        version = self.version()
        if version != self._known[0]:
            self._known = (version, frozenset(map(self._path, read(self._directory))))
        return image in self._known[1]

    def version(self) -> object:
        """Changes with the file."""
        return file_version(self._directory / _NAME)
