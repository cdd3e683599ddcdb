"""Verify a store: which files are corrupt, missing, or foreign.

It runs beside builds and collections without a lock. So a file that disappears between the listing and the hashing is
no error, and a reference is read again before its target is reported as missing. It must not delete; on request,
corrupt files go to the quarantine (except ``index.json``: without it a collection would remove everything).
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from imagecache.digest import DiffID, Digest
from imagecache.errors import BlobNotFound, ContentError, NotFound, StoreCorrupt
from imagecache.oci.descriptor import Descriptor
from imagecache.oserrors import converting
from imagecache.store import oci_layout
from imagecache.store.blobs import Blobs
from imagecache.store.bundle_document import Bundle, PlacedLayer, placed_layers
from imagecache.store.bundles import Bundles
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.leases import Leases
from imagecache.store.paths import StorePaths
from imagecache.store.quarantine import set_aside

Verify = Callable[[Path, PlacedLayer, Sequence[Path]], Digest]
"""Prove that a file is a layer image of a bundle, on top of these files; returns its digest.

Raises ContentError, StoreError.
"""
VerifyAlone = Callable[[Path], tuple[DiffID, Digest]]
"""Prove that a file is right at every position; returns its diffID and its digest. Raises ContentError, StoreError."""


@dataclass(frozen=True, slots=True)
class Proofs:
    """How a deep check proves layer images: with the same parameters as a node."""

    placed: Verify
    alone: VerifyAlone
    """Of one that no bundle names."""


@dataclass(frozen=True, slots=True)
class Finding:
    path: Path
    problem: str
    moved_to: Path | None = None
    """Its path in the quarantine, if it was moved there."""


@dataclass(slots=True)
class Report:
    checked: int = 0
    """Files whose content (or only size, when not proven) was compared with the store's records."""
    corrupt: list[Finding] = field(default_factory=list)
    missing: list[Finding] = field(default_factory=list)
    """Needed by a bundle or leased by a node, and do not exist."""
    unexpected: list[Finding] = field(default_factory=list)
    """Not part of a store. Never moved or deleted."""

    @property
    def healthy(self) -> bool:
        return not self.corrupt and not self.missing


class Checker:
    def __init__(self, paths: StorePaths, leases: Leases) -> None:
        self._paths = paths
        self._leases = leases
        self._bundles = Bundles(paths, Blobs(paths, quarantine=False))

    def check(self, *, proofs: Proofs | None = None, quarantine: bool = False) -> Report:
        """Check everything.

        Blobs are hashed; of layer images the size is compared. With ``proofs`` each is proven too and compared with
        what a bundle says, but for those that are right at one position which no bundle names: an interrupted build has
        left them. Raises StoreError when a file cannot be read.
        """
        run = _Run(self._paths, quarantine=quarantine)
        self._examine_blobs(run)
        documents = self._documents(run.report)
        self._examine_layers(run, placed_layers(documents), proofs)
        self._missing(run.report, documents)
        return run.report

    def _documents(self, report: Report) -> list[Bundle]:
        documents = []
        try:
            entries = self._bundles.index().manifests
        except StoreCorrupt as error:
            report.corrupt.append(Finding(self._paths.index, error.message))
            return []
        for entry in entries:
            # One damaged bundle must not hide the state of the others.
            try:
                documents.append(self._bundles.load(entry))
            except (BlobNotFound, StoreCorrupt) as error:
                if self._still_listed(entry):
                    name = entry.annotations.get(oci_layout.REF_NAME, "")
                    problem = f"bundle {name} cannot be read: {error.message}"
                    report.missing.append(Finding(self._paths.blob(entry.digest), problem))
        return documents

    def _still_listed(self, entry: Descriptor) -> bool:
        return entry in self._bundles.index().manifests

    def _missing(self, report: Report, documents: list[Bundle]) -> None:
        known = {finding.path for finding in report.corrupt}
        absent = {need for need in self._needs(documents) if need.path not in known and not need.path.exists()}
        if absent:  # after a deletion, a release or a repair meanwhile, it is not missing: read the references again
            bundles = set(self._bundles.ids())
            holders = {holder for holder, _name in self._paths.node_lease_files()}
            absent = {
                need for need in absent if (need.bundle in bundles or need.holder in holders) and not need.path.exists()
            }
        report.missing += [Finding(need.path, f"missing, {need}") for need in sorted(absent)]

    def _needs(self, documents: list[Bundle]) -> Iterator[_Need]:
        for document in documents:
            for name in document.layer_names():
                yield _Need(self._paths.layer(name), bundle=document.id)
            for digest in document.document_digests():
                yield _Need(self._paths.blob(digest), bundle=document.id)
        for name, holders in self._leases.leased().items():
            for holder in holders:
                yield _Need(self._paths.layer(name), holder=holder)

    def _examine_blobs(self, run: _Run) -> None:
        for path, digest in self._paths.blob_files():
            if digest is None or not _regular(path):
                run.unexpected(path, "not a blob")
            else:
                run.examine(path, partial(_blob_problem, path, digest))

    def _examine_layers(self, run: _Run, placed: Mapping[LayerName, PlacedLayer], proofs: Proofs | None) -> None:
        for path, name in self._paths.layer_files():
            if name is None or not _regular(path):
                run.unexpected(path, "not a layer image")
            else:
                run.examine(path, partial(self._layer_problem, path, name, placed.get(name), proofs))

    def _layer_problem(
        self, path: Path, name: LayerName, placed: PlacedLayer | None, proofs: Proofs | None
    ) -> str | None:
        size, record = path.stat().st_size, placed.record if placed else None
        if record and size != record.size:
            return f"has {size} bytes; the bundle records {record.size}"
        if proofs is None:
            return None
        try:
            return self._unproven(path, name, placed, proofs)
        except (ContentError, StoreCorrupt) as error:
            return error.message
        except NotFound:  # it, or one below, has disappeared
            return None

    def _unproven(self, path: Path, name: LayerName, placed: PlacedLayer | None, proofs: Proofs) -> str | None:
        if placed is not None:
            lowers = [self._paths.layer(lower) for lower in placed.below]
            if not all(lower.is_file() for lower in lowers):  # those that are missing are reported as such
                return None
            if proofs.placed(path, placed, lowers) != placed.record.digest:
                return "does not have the digest that the bundle records"
        elif name.space is Space.LAYERS and (found := proofs.alone(path)[0]) != name.digest:
            return f"is the layer {found}, not {name.digest}"
        return None


@dataclass(frozen=True, slots=True, order=True)
class _Need:
    """A bundle, or the holder of a lease, that needs a file; the other one is empty."""

    path: Path
    bundle: str = ""
    holder: str = ""

    def __str__(self) -> str:
        return f"bundle {self.bundle}" if self.bundle else f"leased by {self.holder}"


class _Run:
    """Collects the findings of one check."""

    def __init__(self, paths: StorePaths, *, quarantine: bool) -> None:
        self.report = Report()
        self._paths = paths
        self._quarantine = quarantine

    def examine(self, path: Path, problem: Callable[[], str | None]) -> None:
        """Record what ``problem`` returns for a file, unless the file has disappeared."""
        with converting(path):
            try:
                found = problem()
            except FileNotFoundError:
                return
        self.report.checked += 1
        if found:
            moved = set_aside(self._paths, path) if self._quarantine else None
            self.report.corrupt.append(Finding(path, found, moved))

    def unexpected(self, path: Path, problem: str) -> None:
        if path.is_symlink() or path.exists():
            self.report.unexpected.append(Finding(path, problem))


def _regular(path: Path) -> bool:
    """Also True for a file that has disappeared: the caller notices when it reads it."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True


def _blob_problem(path: Path, digest: Digest) -> str | None:
    return None if _hash(path, digest.algorithm) == digest else "does not have the digest in its name"


def _hash(path: Path, algorithm: str) -> Digest:
    with path.open("rb") as file:
        return Digest(f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}")
