"""Where everything is in a store. Only this module knows.

::

    <root>/                           0700
    ├─ oci-layout                     marks an OCI image layout
    ├─ index.json                     the bundles: one OCI artifact manifest each, named by cache id
    ├─ blobs/<algorithm>/<hex>        0400  manifests, configs, indexes, bundle documents
    ├─ layers/<algorithm>/<2>/<hex>.erofs   0400  layer images keyed by diffID; containerd >= 2.4 reads this tree
    ├─ chains/<algorithm>/<2>/<hex>.erofs   0400  layer images keyed by chainID
    ├─ caches/<name>.json             ImageCaches of this host (module kube.object_files)
    ├─ downloads/<algorithm>-<hex>.part     compressed layers, appended to, locked while in use
    ├─ packed/<space>-<algorithm>-<hex>/<inode>-<time>-<number>  blocks of layer images, compressed for nodes: a cache
    ├─ leases/nodes/<holder>/<space>-<algorithm>-<hex>   * empty files: the holder needs that layer image
    ├─ leases/builds/<build>-<hex>.lease   what a live build needs; locked as long as it lives
    ├─ nodes/<node>/<id>.json         * what that node's agent has attached (package agent)
    ├─ staging/<id>.tmp               files being written; locked while their writer lives
    ├─ trash/<id>                     taken out by a collection, about to be unlinked
    ├─ quarantine/<kind>-...          corrupt files; only people delete here
    └─ locks/                         collect (*), index, caches, and one for each object being worked on and each
                                      layer being made, with its file in staging/

What has a * is all that a node writes of a store that it only reads: it may be below another directory (the setting
``leases``), in the same places.

Unfinished layer images and blobs are all in ``staging/`` and never beside their target, so that containerd, skopeo or a
listing never find half a file under a valid name. It must not do I/O beyond listing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from urllib.parse import quote, unquote

from imagecache.digest import Digest
from imagecache.errors import InvalidDigest, InvalidInput
from imagecache.oserrors import converting
from imagecache.store.layer_name import LayerName, Space

_LAYER_FILE = re.compile(r"([0-9a-f]+)\.erofs")
_LEASE = re.compile(r"(layers|chains)-(sha256|sha512)-([0-9a-f]+)")
_PART = re.compile(r"(sha256|sha512)-([0-9a-f]+)\.part")
_ALGORITHMS = ("sha256", "sha512")
_STAGED = re.compile(r"[0-9a-f]{32}\.tmp")
_NAME_MAX = 255


class StorePaths:
    """Paths below one root, and what a path found there stands for."""

    def __init__(self, root: Path, leases: Path | None = None) -> None:
        """``leases``: the directory in which nodes write, where that is not the root."""
        self.root = root
        self.written_by_nodes = leases or root
        self.oci_layout = root / "oci-layout"
        self.index = root / "index.json"
        self.blobs = root / "blobs"
        self.caches = root / "caches"
        self.downloads = root / "downloads"
        self.packed = root / "packed"
        self.node_leases = self.written_by_nodes / "leases" / "nodes"
        self.build_leases = root / "leases" / "builds"
        self.nodes = self.written_by_nodes / "nodes"
        self.staging = root / "staging"
        self.trash = root / "trash"
        self.quarantine = root / "quarantine"
        self.locks = root / "locks"
        self.collect_lock = self.written_by_nodes / "locks" / "collect.lock"
        self.index_lock = self.locks / "index.lock"
        self.caches_lock = self.locks / "caches.lock"

    @property
    def directories(self) -> tuple[Path, ...]:
        """Directories that every store has, parents first."""
        kinds = [self.blobs, *(self.root / space.value for space in Space)]
        plain = [self.caches, self.downloads, self.staging, self.trash, self.quarantine, self.locks]
        plain += [self.build_leases.parent, self.build_leases]
        files = (kind / name for kind in kinds for name in _ALGORITHMS)
        return tuple(dict.fromkeys((self.root, *kinds, *files, *plain, *self.directories_of_nodes)))

    @property
    def directories_of_nodes(self) -> tuple[Path, ...]:
        """Those in which nodes write, parents first."""
        return (self.written_by_nodes, self.node_leases.parent, self.node_leases, self.collect_lock.parent)

    @property
    def is_shared(self) -> bool:
        """Nodes only read the store: what they write is elsewhere."""
        return self.written_by_nodes != self.root

    def layer(self, name: LayerName) -> Path:
        return self.root / name.path

    def layer_lock(self, name: LayerName) -> Path:
        return self.locks / f"{_flat(name)}.lock"

    def layer_locks(self) -> Iterator[Path]:
        """The lock files of layers, whether or not they are locked."""
        for space in Space:
            yield from sorted(self.locks.glob(f"{space.value}-*.lock"))

    def blob(self, digest: Digest) -> Path:
        return self.blobs / digest.algorithm / digest.hex

    def download(self, digest: Digest) -> Path:
        return self.downloads / f"{digest.algorithm}-{digest.hex}.part"

    def packed_block(self, name: LayerName, version: str) -> Path:
        """``version``: of the layer image's file, and which block."""
        return self.packed / _flat(name) / version

    def packed_layers(self) -> Iterator[tuple[Path, LayerName]]:
        """The directories of compressed blocks, and the layer image of each."""
        if self.packed.is_dir():
            for path in sorted(self.packed.iterdir()):
                name = unflat(path.name)
                if name is not None:
                    yield path, name

    def holder(self, holder: str) -> Path:
        """The directory of a holder's leases. A holder is any text of up to about 80 characters."""
        quoted = quote(holder, safe="").replace(".", "%2E")  # "." and ".." would be other directories
        if not quoted or len(quoted) > _NAME_MAX:
            raise ValueError(f"not a lease holder's name: {holder!r}")
        return self.node_leases / quoted

    def node_lease(self, holder: str, name: LayerName) -> Path:
        return self.holder(holder) / _flat(name)

    def build_lease(self, build: str, unique: str) -> Path:
        return self.build_leases / f"{build}-{unique}.lease"

    def build_leases_of(self, build: str) -> list[Path]:
        return sorted(self.build_leases.glob(f"{escape(build)}-*.lease"))

    def staged(self, word: str) -> Path | None:
        """The staged file that a layer's lock file names."""
        return self.staging / word if _STAGED.fullmatch(word) else None

    def layer_files(self) -> Iterator[tuple[Path, LayerName | None]]:
        """Every file below ``layers/`` and ``chains/``; None for one that is no layer image by its path."""
        for space in Space:
            for path in files_below(self.root / space.value):
                yield path, self._layer_name(space, path)

    def blob_files(self) -> Iterator[tuple[Path, Digest | None]]:
        """Every file below ``blobs/``; None for one that is no blob by its path."""
        for path in files_below(self.blobs):
            digest = _digest(path.parent.name, path.name)
            yield path, digest if digest and self.blob(digest) == path else None

    def download_files(self) -> Iterator[tuple[Path, Digest]]:
        for path in files_below(self.downloads):
            match = _PART.fullmatch(path.name)
            digest = _digest(match[1], match[2]) if match else None
            if digest:
                yield path, digest

    def holders(self) -> frozenset[str]:
        with converting(self.node_leases):
            return frozenset(unquote(path.name) for path in self.node_leases.iterdir())

    def node_lease_files(self) -> Iterator[tuple[str, LayerName]]:
        """Every node lease: holder and layer image."""
        for path in files_below(self.node_leases):
            name = unflat(path.name)
            if name:
                yield unquote(path.parent.name), name

    def _layer_name(self, space: Space, path: Path) -> LayerName | None:
        match = _LAYER_FILE.fullmatch(path.name)
        digest = _digest(path.parent.parent.name, match[1]) if match else None
        name = LayerName(space=space, digest=digest) if digest else None
        return name if name and self.layer(name) == path else None


def unflat(text: str) -> LayerName | None:
    """The layer image of a name as leases have them; None for a foreign file."""
    match = _LEASE.fullmatch(text)
    if match is None:
        return None
    try:
        return LayerName.parse(f"{match[1]}/{match[2]}:{match[3]}")
    except InvalidInput:
        return None


def _flat(name: LayerName) -> str:
    return f"{name.space.value}-{name.digest.algorithm}-{name.digest.hex}"


def _digest(algorithm: str, digits: str) -> Digest | None:
    try:
        return Digest(f"{algorithm}:{digits}")
    except InvalidDigest:
        return None


def files_below(directory: Path) -> Iterator[Path]:
    """Everything below that is no directory, in order. A directory that disappears meanwhile counts as empty.

    Raises StoreError, StoreDenied.
    """
    with converting(directory):
        try:
            entries = sorted(directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            yield from files_below(entry)
        else:
            yield entry
