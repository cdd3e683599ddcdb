"""The database: one SQLite file, one writer, transactions that are durable when they end unless they need not be.

WAL, with ``synchronous=FULL`` where it matters (docs/adr/0009). Writes are ``BEGIN IMMEDIATE`` behind one lock, so that
a transaction may have a rename of a directory in its middle; reads never wait for them. ``rows`` has the statements. It
must not know what a layer image or a mount is.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagecache.errors import NoSpace, StoreBusy, StoreCorrupt, StoreError
from imagecache.snapshotter.rows import Reader, Writer

_VERSION = 1
_CHECKPOINT = 100
"""Transactions after which the WAL is written back: some 2 MB. By us, since SQLite would do it behind any of them."""
_SCHEMA = """
CREATE TABLE layers (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
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
    """The highest numbers on the disk when a database is made: not 0 only when an earlier database is lost."""

    snapshots: int = 0
    layers: int = 0


class Metadata:
    """Thread-safe."""

    def __init__(self, path: Path, *, wait: float = 10.0, found: Found = Found()) -> None:
        """Open, or make.

        Args:
            path: the file; its directory exists.
            wait: seconds that a transaction waits for the one before.
            found: numbers that a database made now must never give out.

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
                self._writing.execute("PRAGMA synchronous = NORMAL")
                self._writing.execute("PRAGMA wal_autocheckpoint = 0")
            self._reading = self._connect()
        except BaseException:
            self._writing.close()
            raise

    def close(self) -> None:
        """Twice is fine. A transaction that does not end keeps its file."""
        self.closed = True
        wait = self._wait
        with contextlib.suppress(StoreBusy), self._locked(self._write_lock, wait), self._locked(self._read_lock, wait):
            self._writing.close()
            self._reading.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Reader]:
        """One consistent state. Keep it short and do nothing else meanwhile. Raises StoreError."""
        with self._locked(self._read_lock, self._wait), self._transaction(self._reading, "BEGIN"):
            yield Reader(self._reading)

    @contextlib.contextmanager
    def write(self, *, durable: bool = True, wait: bool = True) -> Iterator[Writer]:
        """All or nothing, durable when the block ends, undone when it raises. Raises StoreError; StoreBusy.

        ``durable=False`` saves the fsync (2 ms on the measured disk, and a start of a container waits for two): for
        what makes itself again after a power failure, and what is of no use after one. It survives every crash of this
        process all the same, and the next durable transaction makes it durable too. ``wait=False`` is for who must not
        block: neither for the transaction before nor for a checkpoint behind.
        """
        with self._locked(self._write_lock, self._wait if wait else 0):
            with self._transaction(self._writing, "BEGIN IMMEDIATE", durable=durable):
                yield Writer(self._writing)
            self._unwritten += 1
            if wait and self._unwritten >= _CHECKPOINT:
                self._checkpoint()

    @contextlib.contextmanager
    def _transaction(self, connection: sqlite3.Connection, begin: str, *, durable: bool = False) -> Iterator[None]:
        with self._converted():
            if self.closed:
                raise StoreError(f"{self._path} is closed", hint="the snapshotter is being stopped")
            if durable:
                connection.execute("PRAGMA synchronous = FULL")
            connection.execute(begin)
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                if durable:
                    connection.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def _locked(self, lock: threading.Lock, wait: float) -> Iterator[None]:
        if not lock.acquire(timeout=wait):
            raise StoreBusy(f"{self._path}: a transaction does not end", hint="look for a disk that does not answer")
        try:
            yield
        finally:
            lock.release()

    def _checkpoint(self) -> None:
        """From the WAL into the file, with fsyncs. What fails is tried again behind the next transaction."""
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
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("INSERT INTO origin VALUES (?)", (found.snapshots,))
            for table, number in (("snapshots", found.snapshots), ("layers", found.layers)):
                connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        elif version != _VERSION:
            raise StoreCorrupt(
                f"{self._path} has format {version}, this program knows {_VERSION}",
                hint="use the version of imagecache that wrote it, or a newer one",
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
            return StoreBusy(words, hint="another process uses the snapshotter's root")
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return StoreCorrupt(words, hint="set the file aside: served layers are registered again by themselves")
        return StoreError(words, hint="check the disk and the directory's permissions")
