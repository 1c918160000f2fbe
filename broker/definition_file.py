"""Definitions and aliases kept over restarts, in a SQLite file (SPEC section 11.10)."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from dspymq.broker.core.definitions import Definition
from dspymq.protocol import ProtocolError

log = logging.getLogger("dspymq.broker")

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS definitions (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, revision TEXT NOT NULL, spec BLOB NOT NULL,
    description BLOB NOT NULL, UNIQUE (name, revision)
);
CREATE TABLE IF NOT EXISTS aliases (
    name TEXT NOT NULL, alias TEXT NOT NULL, revision TEXT NOT NULL, PRIMARY KEY (name, alias)
);
"""
VERSION: Final = 1


class StoreError(Exception):
    """The file cannot be used; the message says why and what to do."""


class DefinitionFile:
    """A definitions.Keeper in one file, of one broker at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create it. Raises StoreError."""
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise StoreError(f"{path} was written by another version of dspymq: name another file")
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        except sqlite3.Error as problem:
            raise StoreError(f"cannot use {path}: {problem}; is another broker running with it?") from None

    def definitions(self) -> Iterator[Definition]:
        """All, in the order in which they were defined."""
        rows: Any = self._db.execute("SELECT name, revision, spec, description FROM definitions ORDER BY number")
        for name, revision, spec, description in rows:
            yield Definition(name, revision, spec, msgspec.msgpack.decode(description))

    def aliases(self) -> list[tuple[str, str, str]]:
        """(name, alias, revision) of all."""
        return list(self._db.execute("SELECT name, alias, revision FROM aliases"))

    def define(self, definition: Definition) -> None:
        """Keep it."""
        row = (definition.name, definition.revision, definition.spec, msgspec.msgpack.encode(definition.description))
        self._db.execute(
            "INSERT OR IGNORE INTO definitions (name, revision, spec, description) VALUES (?, ?, ?, ?)", row
        )

    def undefine(self, name: str, revision: str) -> None:
        """Forget it."""
        self._write("DELETE FROM definitions WHERE name = ? AND revision = ?", (name, revision))

    def set_alias(self, name: str, alias: str, revision: str | None) -> None:
        """Let the alias stand for this revision, or for none."""
        if revision is None:
            self._write("DELETE FROM aliases WHERE name = ? AND alias = ?", (name, alias))
        else:
            self._write("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)", (name, alias, revision))

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as problem:
            log.error("store_failed file=%s problem=%s", self._path, problem)
            raise ProtocolError("store_failed", f"the broker could not write this down: {problem}") from None

    def close(self) -> None:
        """Let go of it."""
        self._db.close()
