"""Pair → logit, in memory and if wanted in an SQLite file. Holds digests and numbers, never a text."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import struct
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

# Raise it when the meaning of what is stored changes.
_FORMAT = 2
# SQLite takes at least this many variables in one statement, in every version.
_KEYS_AT_ONCE = 500
# Seconds that a process waits for another one's write.
_PATIENCE_S = 10.0
# The file is cut back to its bound after so many new entries, as a share of it.
_CLEANED_EVERY = 0.05


class CachedLogit(NamedTuple):
    """What is remembered of a pair: the raw logit, so that calibrating anew invalidates nothing, and what was cut."""

    logit: float
    query_tokens_cut: int = 0
    document_tokens_cut: int = 0


class ScoreCache:
    """The logits of pairs scored before, for any number of models, threads and processes.

    A key is BLAKE2b over everything that a logit depends on, each part with its length before it, so that neither
    another model, revision, dtype or length nor another split of the same characters can be taken for it. The file
    holds keys, numbers and times: who has it cannot read a text from it, but can test a guess. A `secret` kept
    elsewhere takes that away too.

    The memory forgets what was used longest ago, the file what was written longest ago.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        max_entries: int = 100_000,
        max_file_entries: int = 5_000_000,
        max_age_s: float | None = None,
        secret: bytes = b"",
    ) -> None:
        """Open the file, if there is to be one.

        Args:
            path: An SQLite file, made if it is not there; may be shared by processes of one machine. `None`
                keeps everything in memory.
            max_entries: Pairs kept in memory; about 250 bytes each.
            max_file_entries: Pairs kept in the file, give or take a twentieth; about 95 bytes each.
            max_age_s: Older entries are not used and go at the next clean-up. `None` keeps them: a logit does
                not go stale, since the key names the weights.
            secret: Keys the digests, at most 64 bytes.

        Raises:
            ValueError: If a bound is less than 1, the secret is too long, or `path` is something else.
            OSError: If the file or its folder cannot be made.
            sqlite3.OperationalError: If the file cannot be opened. Later failures are logged, and the pairs
                scored again; so are those whose entry is damaged.
        """
        for name, value in (("max_entries", max_entries), ("max_file_entries", max_file_entries)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if max_age_s is not None and max_age_s <= 0:
            raise ValueError(f"max_age_s must be more than 0, got {max_age_s}")
        if len(secret) > hashlib.blake2b.MAX_KEY_SIZE:
            raise ValueError(f"secret must be at most {hashlib.blake2b.MAX_KEY_SIZE} bytes, got {len(secret)}")
        self.path = None if path is None else Path(path)
        self.max_entries = max_entries
        self.max_file_entries = max_file_entries
        self.max_age_s = max_age_s
        self.hits = 0
        self.misses = 0
        self._secret = secret
        self._open()

    def __len__(self) -> int:
        """Return how many pairs are in memory."""
        return len(self._memory)

    def __getstate__(self) -> dict[str, Any]:
        names = ("path", "max_entries", "max_file_entries", "max_age_s", "_secret")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, hits=0, misses=0)  # a copy starts with an empty memory, and the same file
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._memory: OrderedDict[bytes, tuple[CachedLogit, float]] = OrderedDict()
        self._file = None if self.path is None else _File(self.path, self.max_file_entries)

    def keys(self, fields: Sequence[bytes], pairs: Iterable[tuple[str, str]]) -> list[bytes]:
        """Return the key of each pair.

        Args:
            fields: What a logit depends on beside the pair: model, revision, dtype, length, ….
            pairs: `(query, document)`.
        """
        base = hashlib.blake2b(digest_size=16, key=self._secret)
        for field in fields:
            base.update(_measured(field))
        by_query: dict[str, Any] = {}
        keys = []
        for query, document in pairs:
            if query not in by_query:
                by_query[query] = base.copy()
                by_query[query].update(_measured(query.encode("utf-8", "surrogatepass")))
            digest = by_query[query].copy()
            digest.update(_measured(document.encode("utf-8", "surrogatepass")))
            keys.append(digest.digest())
        return keys

    def get_many(self, keys: Sequence[bytes], *, counted: bool = True) -> dict[bytes, CachedLogit]:
        """Return what is known, by key.

        Args:
            keys: As `keys` makes them.
            counted: Count hits and misses.
        """
        oldest = time.time() - self.max_age_s if self.max_age_s is not None else 0.0
        found: dict[bytes, CachedLogit] = {}
        with self._lock:
            for key in keys:
                known = self._memory.get(key)
                if known is not None and known[1] >= oldest:
                    self._memory.move_to_end(key)
                    found[key] = known[0]
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if self._file is not None and missing:
            written = self._file.read(missing, oldest)
            self._remember(written)
            found.update({key: value for key, (value, _) in written.items()})
        if counted:
            with self._lock:
                hits = sum(key in found for key in keys)
                self.hits += hits
                self.misses += len(keys) - hits
        return found

    def set_many(self, logits: Mapping[bytes, CachedLogit]) -> None:
        """Remember what was computed."""
        now = time.time()
        fresh = {key: (value, now) for key, value in logits.items()}
        self._remember(fresh)
        if self._file is not None and fresh:
            oldest = now - self.max_age_s if self.max_age_s is not None else 0.0
            self._file.write(fresh, oldest)

    def _remember(self, entries: Mapping[bytes, tuple[CachedLogit, float]]) -> None:
        with self._lock:
            self._memory.update(entries)
            while len(self._memory) > self.max_entries:
                self._memory.popitem(last=False)


class _File:
    """The SQLite side: write-ahead logging, one connection a process. Its failures cost time, not answers."""

    def __init__(self, path: Path, max_entries: int) -> None:
        self._path = path
        self._max_entries = max_entries
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._to_clean = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._connection = self._connect()
        self._finalizer = weakref.finalize(self, self._connection.close)

    def read(self, keys: Sequence[bytes], oldest: float) -> dict[bytes, tuple[CachedLogit, float]]:
        found: dict[bytes, tuple[CachedLogit, float]] = {}
        damaged = 0
        with self._in_turn("read"):
            connection = self._connected()
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                some = keys[start : start + _KEYS_AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    f"SELECT key, value, written FROM logits WHERE key IN ({marks}) AND written >= ?",  # noqa: S608 - question marks only
                    [*some, oldest],
                )
                for key, sealed, written in rows:
                    value = _opened(key, sealed)
                    if value is None or not isinstance(written, float):
                        damaged += 1
                    else:
                        found[key] = value, written
        if damaged:
            logger.warning("the score cache %s: %d damaged entries are not used", self._path, damaged)
        return found

    def write(self, entries: Mapping[bytes, tuple[CachedLogit, float]], oldest: float) -> None:
        rows = [(key, _sealed(key, value), written) for key, (value, written) in entries.items()]
        with self._in_turn("written"), self._connected() as connection:
            connection.executemany("INSERT OR REPLACE INTO logits VALUES (?, ?, ?)", rows)
            self._to_clean -= len(rows)
            if self._to_clean <= 0:
                # Counting reads the whole index, so that it is done now and then.
                self._to_clean = max(1, int(self._max_entries * _CLEANED_EVERY))
                connection.execute("DELETE FROM logits WHERE written < ?", (oldest,))
                surplus = connection.execute("SELECT count(*) FROM logits").fetchone()[0] - self._max_entries
                if surplus > 0:
                    connection.execute(
                        "DELETE FROM logits WHERE key IN (SELECT key FROM logits ORDER BY written LIMIT ?)", (surplus,)
                    )

    @contextmanager
    def _in_turn(self, what: str) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                logger.warning("the score cache %s could not be %s: %s", self._path, what, error)

    def _connected(self) -> sqlite3.Connection:
        if self._pid != os.getpid():
            # SQLite connections must not be used, nor closed, on the other side of a fork.
            self._finalizer.detach()
            self._parents = self._connection
            try:
                self._pid, self._connection = os.getpid(), self._connect()
            except ValueError as error:  # what is no mistake of the caller's any more
                raise sqlite3.DatabaseError(str(error)) from None
            self._finalizer = weakref.finalize(self, self._connection.close)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_PATIENCE_S, check_same_thread=False)
        try:
            with connection:
                # One process at a time, so that none sees a file that another one is making.
                connection.execute("BEGIN IMMEDIATE")
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if version != _FORMAT and (version or tables):
                    raise ValueError(
                        f"{self._path}: is an SQLite file of another kind, not a score cache of this version"
                    )
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS logits"
                    " (key BLOB PRIMARY KEY, value BLOB NOT NULL, written REAL NOT NULL) WITHOUT ROWID"
                )
                connection.execute("CREATE INDEX IF NOT EXISTS by_age ON logits (written)")
                connection.execute(f"PRAGMA user_version={_FORMAT}")
            _log_ahead(connection)
            # The last entries may be lost when the machine stops, but never the file's integrity.
            connection.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.OperationalError:
            connection.close()
            raise
        except sqlite3.DatabaseError:
            connection.close()
            raise ValueError(f"{self._path}: is no SQLite file, so it is no score cache") from None
        except ValueError:
            connection.close()
            raise
        return connection


_VALUE = struct.Struct("<dII")
_SEAL_BYTES = 4


def _sealed(key: bytes, value: CachedLogit) -> bytes:
    """Return the bytes of a value with a digest of them and the key, so that no damage passes for a score."""
    packed = _VALUE.pack(*value)
    return packed + hashlib.blake2b(key + packed, digest_size=_SEAL_BYTES).digest()


def _opened(key: bytes, sealed: object) -> CachedLogit | None:
    """Return what was sealed, or `None` if it is damaged."""
    if not isinstance(sealed, bytes) or len(sealed) != _VALUE.size + _SEAL_BYTES:
        return None
    value = CachedLogit(*_VALUE.unpack(sealed[: _VALUE.size]))
    return value if _sealed(key, value) == sealed else None


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Turn write-ahead logging on. SQLite does not wait here for others that open the file, as it does elsewhere."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _measured(field: bytes) -> bytes:
    return len(field).to_bytes(8, "little") + field
