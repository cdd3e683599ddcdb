"""What a node has attached, remembered across restarts: one small file for each bundle.

A file is written before the runtime's records are made and removed after they are gone. So an agent that starts knows
what to detach when a cache was deleted meanwhile, even when the store no longer has the bundle. A file that cannot be
read counts as absent: kubelet's image collection removes such records in the end. It must not decide anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from imagecache.agent import direct_layers
from imagecache.agent.names import NO_RANK, Claim, Rank, names_taken, taken
from imagecache.api.ids import is_cache_id
from imagecache.api.nodes import NAME_TAKEN, CacheState, NodeCache
from imagecache.containerd.api import Attached
from imagecache.errors import InvalidDigest, InvalidInput
from imagecache.oci.descriptor import decode_hook, encode_hook
from imagecache.oserrors import converting
from imagecache.store.bundle_document import Bundle
from imagecache.store.durable_files import fsync_directory, write_atomic
from imagecache.store.layer_name import LayerName
from imagecache.store.owner import make_directory
from imagecache.telemetry.log import get_logger
from imagecache.written import printable

_log = get_logger(__name__)
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Known:
    """What the node remembers of a bundle that it has, or had."""

    caches: frozenset[str] = frozenset()
    """Names of the ImageCaches that it was for."""
    last_used: float = 0.0
    """When a container last started from it; seconds since the epoch."""
    unpacked: frozenset[str] = frozenset()
    """Snapshotters of other runtime handlers that have its images too."""
    direct_io: bool = False
    """Its layers are mounted for reads with O_DIRECT, when they are mounted next."""
    rank: Rank = NO_RANK


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    document: Bundle
    caches: tuple[str, ...] = ()
    last_used: float = 0.0
    also_unpack: tuple[str, ...] = ()
    """What its cache asks for."""
    unpacked: tuple[str, ...] = ()
    """What was done of it, so that a restarted agent knows which space is taken already."""
    direct_io: bool = False
    rank: Rank = NO_RANK
    names: tuple[str, ...] = ()
    """Of ``Attached.names``: what the last attach has shown that it claims."""
    records: tuple[str, ...] = ()
    """Names of records that attaches have made, also earlier ones."""
    had: tuple[str, ...] = ()
    """Of ``Attached.had``, of the last attach."""
    attached: bool = False
    problem: str = ""
    """Why the last attach failed. Both are kept on a host without Kubernetes alone: a Node's agent reports its own."""


class NodeState:
    """Calls block; one process at a time. ``load`` first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._entries: dict[str, _Entry] = {}
        self._unsaved: set[str] = set()
        self._direct: frozenset[LayerName] = frozenset()
        """What the file of ``agent.direct_layers`` says."""

    def load(self) -> None:
        """Raises StoreError, StoreDenied, NoSpace."""
        with converting(self._directory):
            make_directory(self._directory.parent)
            make_directory(self._directory)
        self._entries = _entries(self._directory)
        self._direct = direct_layers.read(self._directory)
        self._save_direct()  # a killed agent may have written an entry alone

    @property
    def documents(self) -> dict[str, Bundle]:
        return {name: entry.document for name, entry in self._entries.items()}

    def known(self) -> dict[str, Known]:
        return {
            name: Known(
                frozenset(entry.caches), entry.last_used, frozenset(entry.unpacked), entry.direct_io, entry.rank
            )
            for name, entry in list(self._entries.items())
        }

    def asked(self, without: str) -> list[tuple[Bundle, tuple[str, ...]]]:
        """Every other bundle, and the snapshotters that its cache asks for (``Cache.also_unpack``)."""
        return [(entry.document, entry.also_unpack) for name, entry in self._entries.items() if name != without]

    def claims(self) -> list[Claim]:
        """Of every bundle, with what was shown when it was attached last."""
        return [
            Claim(entry.document, next(iter(entry.caches), ""), entry.rank, entry.names)
            for entry in list(self._entries.values())
        ]

    def write(
        self,
        document: Bundle,
        caches: Iterable[str],
        also: Iterable[str] = (),
        *,
        direct_io: bool = False,
        rank: Rank = NO_RANK,
    ) -> None:
        """Remember the bundle, durably. Raises StoreError, NoSpace, StoreDenied."""
        before = self._entries.get(document.id)
        entry = msgspec.structs.replace(
            before or _Entry(document=document),
            document=document,
            caches=tuple(sorted(caches)),
            also_unpack=tuple(also),
            direct_io=direct_io,
            rank=rank,
        )
        if entry != before:
            self._save(document.id, entry)

    def all_made(self) -> frozenset[str]:
        """Names of all records that are ours."""
        return frozenset(name for entry in list(self._entries.values()) for name in entry.records)

    def had(self, bundle_id: str) -> frozenset[str]:
        """Names that the node had before any bundle had them, as far as this one's images have them."""
        entry = self._entries.get(bundle_id)
        return frozenset(entry.had if entry else ())

    def made(self, bundle_id: str, attached: Attached) -> None:
        """Remember what an attach has made: snapshots in other snapshotters, names, and what the node had before.

        Raises StoreError, NoSpace, StoreDenied.
        """
        before = self._entries[bundle_id]
        had = set(attached.had)  # anew each time: what was collected since, and made again, is ours
        entry = msgspec.structs.replace(
            before,
            unpacked=tuple(sorted(attached.unpacked)),
            names=tuple(sorted(attached.names)),
            records=tuple(sorted({*before.records, *attached.images} - had)),
            had=tuple(sorted(had)),
        )
        if entry != self._entries[bundle_id]:
            self._save(bundle_id, entry)

    def settle(self, bundle_id: str, problem: str = "") -> None:
        """Remember how an attach ended. Raises StoreError, NoSpace, StoreDenied."""
        entry = msgspec.structs.replace(self._entries[bundle_id], attached=not problem, problem=problem)
        if entry != self._entries[bundle_id]:
            self._save(bundle_id, entry)

    def report(self, cache: str) -> tuple[NodeCache, ...]:
        """The bundles of a cache as a NodeImageCache has them, by what ``settle`` has remembered."""
        claims = self.claims()
        return tuple(
            _report(cache, bundle_id, entry, taken(bundle_id, claims))
            for bundle_id, entry in self._entries.items()
            if cache in entry.caches
        )

    def erase(self, bundle_id: str) -> None:
        """Idempotent. Raises StoreError, StoreDenied."""
        if self._entries.pop(bundle_id, None) is None:
            return
        with converting(self._path(bundle_id)):
            self._path(bundle_id).unlink(missing_ok=True)
            fsync_directory(self._directory)
        self._save_direct()

    def used(self, bundle_id: str, moment: float) -> None:
        """Record a use in memory; ``flush`` writes it to the file."""
        entry = self._entries.get(bundle_id)
        if entry is not None:
            self._entries[bundle_id] = msgspec.structs.replace(entry, last_used=moment)
            self._unsaved.add(bundle_id)

    def flush(self) -> None:
        """Raises StoreError, NoSpace, StoreDenied."""
        while self._unsaved:
            bundle_id = self._unsaved.pop()
            if bundle_id in self._entries:
                self._save(bundle_id, self._entries[bundle_id])

    def _save(self, bundle_id: str, entry: _Entry) -> None:
        write_atomic(self._path(bundle_id), msgspec.json.encode(entry, enc_hook=encode_hook))
        with converting(self._directory):
            fsync_directory(self._directory)  # the records that follow must never outlive the file in a power failure
        self._entries[bundle_id] = entry
        self._save_direct()

    def _save_direct(self) -> None:
        asking = [entry.document for entry in self._entries.values() if entry.direct_io]
        layers = frozenset(name for document in asking for name in document.layer_names())
        if layers != self._direct:
            direct_layers.write(self._directory, layers)
            self._direct = layers

    def _path(self, bundle_id: str) -> Path:
        return self._directory / f"{bundle_id}{_SUFFIX}"


def remembered(directory: Path) -> list[Bundle]:
    """The bundles of a ``NodeState``, for another process or an earlier moment. Raises StoreError, StoreDenied."""
    return [entry.document for entry in _entries(directory).values()]


def _entries(directory: Path) -> dict[str, _Entry]:
    with converting(directory):
        files = sorted(directory.glob(f"*{_SUFFIX}"))
    return {file.stem: entry for file in files if (entry := _read(file)) is not None}


def _report(cache: str, bundle_id: str, entry: _Entry, owners: Mapping[str, str]) -> NodeCache:
    state = _state(entry)
    reason = NAME_TAKEN if owners and state is CacheState.READY else ""
    message = names_taken(owners) if reason else printable(entry.problem)
    return NodeCache(name=cache, id=bundle_id, state=state, reason=reason, message=message)


def _state(entry: _Entry) -> CacheState:
    if entry.attached:
        return CacheState.READY
    return CacheState.FAILED if entry.problem else CacheState.PENDING


def _read(file: Path) -> _Entry | None:
    try:
        entry = msgspec.json.decode(file.read_bytes(), type=_Entry, dec_hook=decode_hook)
    except (OSError, msgspec.DecodeError, InvalidDigest, InvalidInput) as error:
        _log.warning("file of the state ignored", file=str(file), problem=str(error))
        return None
    # a file under another id was copied by hand: detaching by it would remove records of a bundle that stays
    return entry if is_cache_id(file.stem) and entry.document.id == file.stem else None
