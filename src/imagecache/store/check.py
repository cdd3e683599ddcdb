"""Verify a store: which files are corrupt, missing, or foreign.

It runs beside builds and collections without a lock. So a file that disappears between the listing and the hashing is
no error, and a reference is read again before its target is reported as missing. It must not delete; on request,
corrupt files go to the quarantine (except ``index.json``: without it a collection would remove everything).
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from imagecache.digest import DiffID, Digest
from imagecache.errors import BlobNotFound, ContentError, StoreCorrupt
from imagecache.oci.descriptor import Descriptor
from imagecache.oserrors import converting
from imagecache.store import oci_layout
from imagecache.store.blobs import Blobs
from imagecache.store.bundle_document import Bundle, LayerRecord
from imagecache.store.bundles import Bundles
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.leases import Leases
from imagecache.store.paths import StorePaths
from imagecache.store.quarantine import set_aside

Verify = Callable[[Path], tuple[DiffID, Digest]]
"""Prove that a file is a sound layer image; returns its diffID and its digest. Raises ContentError."""


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

    def check(self, *, verify: Verify | None = None, quarantine: bool = False) -> Report:
        """Check everything.

        Blobs are hashed; of layer images the size is compared. With ``verify`` each is proven too, and compared with
        what a bundle says. Raises StoreError when a file cannot be read.
        """
        run = _Run(self._paths, quarantine=quarantine)
        self._examine_blobs(run)
        documents = self._documents(run.report)
        records = {layer.name: layer for document in documents for image in document.images for layer in image.layers}
        self._examine_layers(run, records, verify)
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

    def _examine_layers(self, run: _Run, records: dict[LayerName, LayerRecord], verify: Verify | None) -> None:
        for path, name in self._paths.layer_files():
            if name is None or not _regular(path):
                run.unexpected(path, "not a layer image")
            else:
                run.examine(path, partial(_layer_problem, path, name, records.get(name), verify))


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


def _layer_problem(path: Path, name: LayerName, record: LayerRecord | None, verify: Verify | None) -> str | None:
    size = path.stat().st_size
    if record and size != record.size:
        return f"has {size} bytes; the bundle records {record.size}"
    if verify is None:
        return None
    try:
        diff_id, digest = verify(path)
    except ContentError as error:
        return error.message
    expected = name.digest if name.space is Space.LAYERS else record and record.diff_id
    if expected and diff_id != expected:
        return f"is the layer {diff_id}, not {expected}"
    if record and digest != record.digest:
        return "does not have the digest that the bundle records"
    return None


def _hash(path: Path, algorithm: str) -> Digest:
    with path.open("rb") as file:
        return Digest(f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}")
