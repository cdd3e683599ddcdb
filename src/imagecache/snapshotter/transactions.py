"""Statements on the database, and the rules that containerd's own snapshotters keep in theirs.

The rules and their errors are those of core/snapshots/storage/bolt.go: one space of names, a parent is committed, a
parent stays while it has children, labels are replaced at a commit. It must not touch directories or mounts.
"""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from imagecache.digest import ChainID, Digest
from imagecache.errors import (
    HasChildren,
    InvalidSnapshotArgument,
    SnapshotExists,
    SnapshotNotFound,
    WrongKind,
)
from imagecache.snapshotter.filters import Filter
from imagecache.snapshotter.snapshot import REF_LABEL, Info, Kind, LayerBelow, LayerRef, Lower, Row, Usage, chain_of
from imagecache.store.layer_name import LayerName

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_ROW = """
SELECT s.id, s.name, s.kind, s.parent, s.labels, s.created, s.updated, s.chain, s.size, s.inodes,
       p.name, l.id, l.name
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent LEFT JOIN layers l ON l.id = s.layer
"""
# One statement for a whole chain: a container's start waits for it, and an image may have a hundred layers.
_CHAIN = """
WITH RECURSIVE below (depth, id, parent, layer) AS (
  SELECT 0, id, parent, layer FROM snapshots WHERE id = ?
  UNION ALL
  SELECT depth + 1, s.id, s.parent, s.layer FROM below JOIN snapshots s ON s.id = below.parent
)
SELECT below.id, l.id, l.name FROM below LEFT JOIN layers l ON l.id = below.layer ORDER BY depth
"""
_BELOW = """
WITH RECURSIVE below (depth, id) AS (
  SELECT 0, parent FROM snapshots WHERE name = ?
  UNION ALL
  SELECT depth + 1, s.parent FROM below JOIN snapshots s ON s.id = below.id
)
SELECT COALESCE(s.chain, s.name), s.layer IS NOT NULL, s.created
FROM below JOIN snapshots s ON s.id = below.id ORDER BY depth
"""
_ABOVE = """
WITH RECURSIVE above (id, kind) AS (
  SELECT id, kind FROM snapshots WHERE layer = ?
  UNION
  SELECT s.id, s.kind FROM above JOIN snapshots s ON s.parent = above.id
)
SELECT 1 FROM above WHERE kind <> 3 LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class ServedRow:
    """A committed snapshot that a layer image serves, to be inserted."""

    name: str
    chain: ChainID
    layer: LayerRef
    parent_id: int | None
    labels: Mapping[str, str]
    usage: Usage


class ReadTransaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def find(self, name: str) -> Row | None:
        return next(self._rows("WHERE s.name = ?", name), None)

    def get(self, name: str) -> Row:
        """Raises SnapshotNotFound."""
        row = self.find(name)
        if row is None:
            raise SnapshotNotFound(f"snapshot {name!r} does not exist")
        return row

    def committed_parent(self, name: str) -> Row:
        """Raises SnapshotNotFound, InvalidSnapshotArgument."""
        row = self.find(name)
        if row is None:
            raise SnapshotNotFound(f"parent snapshot {name!r} does not exist")
        if row.info.kind is not Kind.COMMITTED:
            raise InvalidSnapshotArgument(f"parent snapshot {name!r} is not committed")
        return row

    def served(self, chain: ChainID, parent_id: int | None) -> Row | None:
        """The snapshot that a layer image serves for ``chain`` on top of this parent."""
        return next(self._rows("WHERE s.chain = ? AND s.parent IS ? AND s.layer IS NOT NULL", chain, parent_id), None)

    def committed(self, chain: ChainID) -> Row | None:
        """Any committed snapshot with this content, pulled or served; a served one is preferred."""
        return next(self._rows("WHERE s.chain = ? AND s.kind = 3 ORDER BY s.layer IS NULL, s.id", chain), None)

    def chain(self, row_id: int | None) -> tuple[Lower, ...]:
        """The committed snapshot ``row_id`` and everything below it, nearest first; empty for None."""
        return tuple(Lower(row, _layer(layer, name)) for row, layer, name in self._db.execute(_CHAIN, (row_id,)))

    def below(self, name: str) -> tuple[LayerBelow, ...]:
        """The committed snapshots that ``name`` stands on, nearest first; empty when it does not exist."""
        found = self._db.execute(_BELOW, (name,))
        return tuple(LayerBelow(chain, bool(served), _moment(created)) for chain, served, created in found)

    def select(self, wanted: Filter) -> list[Info]:
        """Every matching snapshot, oldest first. The filters that containerd itself uses are answered from an index."""
        where: list[str] = []
        values: list[str] = []
        for column, path in (("s.name", ("name",)), ("s.ref", ("labels", REF_LABEL))):
            value = wanted.required(*path)
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        clause = f"WHERE {' AND '.join(where)} ORDER BY s.id" if where else "ORDER BY s.id"
        return [row.info for row in self._rows(clause, *values) if wanted.matches(row.info)]

    def ids(self) -> frozenset[int]:
        return frozenset(number for (number,) in self._db.execute("SELECT id FROM snapshots"))

    def layer(self, name: LayerName) -> LayerRef | None:
        found = self._db.execute("SELECT id FROM layers WHERE name = ?", (str(name),)).fetchone()
        return None if found is None else LayerRef(found[0], name)

    def layers(self) -> tuple[LayerRef, ...]:
        found = self._db.execute("SELECT id, name FROM layers ORDER BY id")
        return tuple(LayerRef(number, LayerName.parse(name)) for number, name in found)

    def in_use(self, layer: LayerRef) -> bool:
        return self._db.execute("SELECT 1 FROM snapshots WHERE layer = ? LIMIT 1", (layer.id,)).fetchone() is not None

    def is_below_active(self, layer: LayerRef) -> bool:
        """Whether an active snapshot or a view stands on the layer image."""
        return self._db.execute(_ABOVE, (layer.id,)).fetchone() is not None

    def lost_up_to(self) -> int:
        """Snapshots with numbers up to this one belong to a lost database."""
        (number,) = self._db.execute("SELECT snapshots FROM origin").fetchone()
        return int(number)

    def _rows(self, clause: str, *values: str | int | None) -> Iterator[Row]:
        return map(_row, self._db.execute(_ROW + clause, values))


class WriteTransaction(ReadTransaction):
    def create(self, kind: Kind, key: str, parent: Row | None, labels: Mapping[str, str], now: dt.datetime) -> int:
        """Insert an active snapshot or a view. Raises SnapshotExists; SnapshotNotFound if the parent was removed."""
        self._must_be_free(key)
        if parent is not None and self._number(parent.info.name) != parent.id:
            # By number: another snapshot may have got its name since, with other layers below.
            raise SnapshotNotFound(f"parent snapshot {parent.info.name!r} was removed meanwhile")
        return self._insert(key, kind, parent.id if parent else None, labels, now)

    def insert_served(self, served: ServedRow, now: dt.datetime) -> None:
        """Insert a committed snapshot that a layer image serves. Raises SnapshotExists when the name is in use."""
        self._must_be_free(served.name)
        number = self._insert(served.name, Kind.COMMITTED, served.parent_id, served.labels, now)
        self._db.execute(
            "UPDATE snapshots SET chain = ?, layer = ?, size = ?, inodes = ? WHERE id = ?",
            (served.chain, served.layer.id, served.usage.size, served.usage.inodes, number),
        )

    def commit(self, name: str, key: str, labels: Mapping[str, str], parent: str, now: dt.datetime) -> int:
        """Turn the active snapshot ``key`` into the committed ``name``; returns its number, which stays the same.

        ``labels`` replace those of the key. ``parent`` becomes its parent if it has none (containerd >= 2.2, capability
        "rebase"); empty: no change.

        Raises:
            SnapshotExists, SnapshotNotFound, WrongKind, InvalidSnapshotArgument
        """
        self._must_be_free(name)
        row = self.get(key)
        if row.info.kind is not Kind.ACTIVE:
            raise WrongKind(f"snapshot {key!r} is not active")
        parent_id = self._rebased(row, parent) if parent else row.parent_id
        moment = _microseconds(now)
        self._db.execute(
            "UPDATE snapshots SET name = ?, kind = ?, parent = ?, labels = ?, created = ?, updated = ?, chain = ?"
            " WHERE id = ?",
            (name, Kind.COMMITTED, parent_id, _encoded(labels), moment, moment, chain_of(name), row.id),
        )
        return row.id

    def relabel(self, name: str, labels: Mapping[str, str], paths: Sequence[str], now: dt.datetime) -> Info:
        """Replace all labels, or those that ``paths`` (``labels``, ``labels.<key>``) name; an empty value deletes one.

        Raises SnapshotNotFound, InvalidSnapshotArgument.
        """
        row = self.get(name)
        new = _relabelled(row.info, labels, paths)
        self._db.execute(
            "UPDATE snapshots SET labels = ?, updated = ? WHERE id = ?",
            (_encoded(new), _microseconds(now), row.id),
        )
        return self.get(name).info

    def remove(self, name: str) -> Row:
        """Raises SnapshotNotFound, HasChildren."""
        row = self.get(name)
        if self._db.execute("SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1", (row.id,)).fetchone():
            raise HasChildren(f"cannot remove snapshot {name!r}: it has children")
        self._db.execute("DELETE FROM snapshots WHERE id = ?", (row.id,))
        return row

    def set_usage(self, row_id: int, usage: Usage) -> None:
        self._db.execute("UPDATE snapshots SET size = ?, inodes = ? WHERE id = ?", (usage.size, usage.inodes, row_id))

    def add_layer(self, name: LayerName) -> LayerRef:
        """The layer's row, inserted if it does not exist."""
        self._db.execute("INSERT INTO layers (name) VALUES (?) ON CONFLICT DO NOTHING", (str(name),))
        found = self.layer(name)
        if found is None:
            raise LookupError(name)
        return found

    def drop_layer(self, layer: LayerRef) -> None:
        self._db.execute("DELETE FROM layers WHERE id = ?", (layer.id,))

    def _insert(self, name: str, kind: Kind, parent_id: int | None, labels: Mapping[str, str], now: dt.datetime) -> int:
        moment = _microseconds(now)
        cursor = self._db.execute(
            "INSERT INTO snapshots (name, kind, parent, labels, created, updated) VALUES (?, ?, ?, ?, ?, ?)",
            (name, kind, parent_id, _encoded(labels), moment, moment),
        )
        if cursor.lastrowid is None:
            raise LookupError(name)
        return cursor.lastrowid

    # Checked here, although the table has UNIQUE (name): a constraint's error does not say which name.
    def _must_be_free(self, name: str) -> None:
        if not name:
            raise InvalidSnapshotArgument("a snapshot needs a name")
        if self._number(name) is not None:
            raise SnapshotExists(f"snapshot {name!r} already exists")

    def _number(self, name: str) -> int | None:
        found = self._db.execute("SELECT id FROM snapshots WHERE name = ?", (name,)).fetchone()
        return None if found is None else int(found[0])

    def _rebased(self, row: Row, parent: str) -> int:
        if row.info.parent not in {"", parent}:
            raise InvalidSnapshotArgument(f"commit cannot change the parent of snapshot {row.info.name!r}")
        found = self.get(parent)
        if found.info.kind is not Kind.COMMITTED:
            raise WrongKind(f"parent snapshot {parent!r} is not committed")
        return found.id


def _relabelled(info: Info, labels: Mapping[str, str], paths: Sequence[str]) -> Mapping[str, str]:
    new = dict(info.labels) if paths else dict(labels)
    for path in paths:
        if path == "labels":
            new = dict(labels)
        elif path.startswith("labels."):
            key = path.removeprefix("labels.")
            new[key] = labels.get(key, "")
        else:
            raise InvalidSnapshotArgument(f"cannot update field {path!r} of snapshot {info.name!r}")
    return new


def _encoded(labels: Mapping[str, str]) -> str:
    """As JSON. A label without a value is deleted, as by containerd's own snapshotters."""
    return json.dumps({key: value for key, value in labels.items() if value})


def _row(values: tuple[object, ...]) -> Row:
    """Columns in the order of ``_ROW``; the types are the table's (STRICT)."""
    number, name, kind, parent_id, labels, created, updated, chain, size, inodes, parent, layer_id, layer = values
    info = Info(
        kind=Kind(_int(kind)),
        name=str(name),
        parent=str(parent or ""),
        labels=json.loads(str(labels)),
        created=_moment(_int(created)),
        updated=_moment(_int(updated)),
    )
    return Row(
        id=_int(number),
        info=info,
        parent_id=None if parent_id is None else _int(parent_id),
        chain=None if chain is None else ChainID(Digest(str(chain))),
        layer=_layer(layer_id, layer),
        usage=None if size is None else Usage(_int(size), _int(inodes)),
    )


def _layer(number: object, name: object) -> LayerRef | None:
    return None if number is None else LayerRef(_int(number), LayerName.parse(str(name)))


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"not an integer: {value!r}")
    return value


def _microseconds(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(microseconds: int) -> dt.datetime:
    return _EPOCH + microseconds * _MICROSECOND
