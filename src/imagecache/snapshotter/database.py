"""The database: one SQLite file, one writer at a time; a transaction is durable when it ends, unless it need not be.

WAL, with ``synchronous=FULL`` where it matters (docs/adr/0009). Writes are ``BEGIN IMMEDIATE`` behind one lock, so that
a directory may be renamed in the middle of a transaction; reads never wait for writes. ``transactions`` has the
statements. It must not know what a layer image or a mount is.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagecache.errors import NoSpace, StoreBusy, StoreCorrupt, StoreError
from imagecache.snapshotter.transactions import ReadTransaction, WriteTransaction

_VERSION = 1
_CHECKPOINT = 100
"""Transactions until the WAL, then some 2 MB, is written back. By us: SQLite would do it after any transaction, so also
after one that a container's start waits for."""
_SCHEMA = """
CREATE TABLE layers (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: a directory or mount of that name may still exist
  name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE snapshots (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  kind INTEGER NOT NULL CHECK (kind IN (1, 2, 3)),
  parent INTEGER REFERENCES snapshots (id),
  labels TEXT NOT NULL,
  created INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  chain TEXT,
  layer INTEGER REFERENCES layers (id),
  size INTEGER,
  inodes INTEGER,
  ref TEXT GENERATED ALWAYS AS (json_extract(labels, '$."containerd.io/snapshot.ref"')) VIRTUAL,
  CHECK (parent IS NULL OR parent <> id),
  CHECK (layer IS NULL OR (kind = 3 AND chain IS NOT NULL))
) STRICT;
CREATE INDEX snapshots_parent ON snapshots (parent);
CREATE INDEX snapshots_chain ON snapshots (chain) WHERE chain IS NOT NULL;
CREATE INDEX snapshots_layer ON snapshots (layer) WHERE layer IS NOT NULL;
CREATE INDEX snapshots_ref ON snapshots (ref) WHERE ref IS NOT NULL;
CREATE TABLE origin (snapshots INTEGER NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Found:
    """The highest numbers on the disk when a database is made; other than 0 only after an earlier database was lost."""

    snapshots: int = 0
    layers: int = 0


class Database:
    """Thread-safe."""

    def __init__(self, path: Path, *, wait: float = 10.0, found: Found = Found()) -> None:
        """Open, or make.

        Args:
            path: the file; its directory exists.
            wait: seconds that a transaction waits for the one before.
            found: numbers up to these are never assigned by a database that is made now.

        Raises:
            StoreCorrupt: the file is no database of ours.
        """
        self._path = path
        self._wait = wait
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._unwritten = 0
        """Transactions since the last checkpoint."""
        self.closed = False
        self._writing = self._connect()
        try:
            with self._converted():
                self._migrate(self._writing, found)
                # NORMAL does not fsync a commit; ``_transaction`` switches to FULL for those that must be durable.
                self._writing.execute("PRAGMA synchronous = NORMAL")
                self._writing.execute("PRAGMA wal_autocheckpoint = 0")
            self._reading = self._connect()
        except BaseException:
            self._writing.close()
            raise

    def close(self) -> None:
        """Idempotent. A transaction that does not end in time keeps its connection open."""
        self.closed = True
        wait = self._wait
        with contextlib.suppress(StoreBusy), self._locked(self._write_lock, wait), self._locked(self._read_lock, wait):
            self._writing.close()
            self._reading.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[ReadTransaction]:
        """One consistent state. Keep the block short: other reads wait for it. Raises StoreError."""
        with self._locked(self._read_lock, self._wait), self._transaction(self._reading, "BEGIN"):
            yield ReadTransaction(self._reading)

    @contextlib.contextmanager
    def write(self, *, durable: bool = True, wait: bool = True) -> Iterator[WriteTransaction]:
        """All or nothing, durable when the block ends, undone when it raises. Raises StoreError; StoreBusy.

        Args:
            durable: False saves the fsync (2 ms on the measured disk, and a container's start waits for two): for what
                is recovered after a power failure, and what is of no use after one. The transaction still survives a
                crash of this process, and the next durable one makes it durable too.
            wait: False never blocks: neither for a running transaction nor for a checkpoint after this one.
        """
        with self._locked(self._write_lock, self._wait if wait else 0):
            with self._transaction(self._writing, "BEGIN IMMEDIATE", durable=durable):
                yield WriteTransaction(self._writing)
            self._unwritten += 1
            if wait and self._unwritten >= _CHECKPOINT:
                self._checkpoint()

    @contextlib.contextmanager
    def _transaction(self, connection: sqlite3.Connection, begin: str, *, durable: bool = False) -> Iterator[None]:
        with self._converted():
            if self.closed:
                raise StoreError(f"{self._path} is closed", hint="the snapshotter is stopping")
            if durable:
                connection.execute("PRAGMA synchronous = FULL")
            connection.execute(begin)
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # some errors (a full disk) have ended it already
                    connection.execute("ROLLBACK")
                raise
            finally:
                if durable:
                    connection.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def _locked(self, lock: threading.Lock, wait: float) -> Iterator[None]:
        if not lock.acquire(timeout=wait):
            raise StoreBusy(f"{self._path}: another transaction has not ended", hint="look for a disk that hangs")
        try:
            yield
        finally:
            lock.release()

    def _checkpoint(self) -> None:
        """From the WAL into the file, with fsyncs. A failure is retried after the next transaction."""
        with contextlib.suppress(sqlite3.Error):
            self._writing.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._unwritten = 0

    def _connect(self) -> sqlite3.Connection:
        with self._converted():
            connection = sqlite3.connect(self._path, timeout=self._wait, isolation_level=None, check_same_thread=False)
            try:
                for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                    connection.execute(f"PRAGMA {setting}")
            except BaseException:
                connection.close()
                raise
            return connection

    def _migrate(self, connection: sqlite3.Connection, found: Found) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.execute("BEGIN IMMEDIATE")  # the whole schema or nothing: a crash here starts again
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("INSERT INTO origin VALUES (?)", (found.snapshots,))
            # AUTOINCREMENT continues after these: directories and mounts of a lost database keep their numbers.
            for table, number in (("snapshots", found.snapshots), ("layers", found.layers)):
                connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        elif version != _VERSION:
            raise StoreCorrupt(
                f"{self._path} has format {version}, this program knows {_VERSION}",
                hint="use the version of imagecache that wrote it, or a later one",
            )

    @contextlib.contextmanager
    def _converted(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._meaning(error) from error

    def _meaning(self, error: sqlite3.Error) -> StoreError:
        words = f"{self._path}: {error}"
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return NoSpace(words, hint="free space on the filesystem of the snapshotter's root")
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return StoreBusy(words, hint="another process uses the root of the snapshotter")
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return StoreCorrupt(words, hint="move the file away and restart the agent: served layers are recovered")
        return StoreError(words, hint="check the disk and the directory's permissions")
