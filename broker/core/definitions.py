"""Programs that clients have defined as data, and aliases of revisions (SPEC section 11.10).

A definition is a spec (what `spec` of an inline program may be) under a name; its revision is a hash of its content.
The broker keeps specs and never looks into them: a worker has said that they can be built, and how they are described.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from dspymq.protocol.errors import ProtocolError

ALIAS_MARK: Final = "@"
"""Between a program's name and an alias: `qa@prod`."""

_canonical = msgspec.msgpack.Encoder(order="deterministic")


@dataclass(frozen=True)
class Definition:
    """A program as data. `spec` is msgpack; `description` is what a worker says of it, as in the body of `ready`."""

    name: str
    revision: str
    spec: bytes
    description: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        """What it counts against the bound of all."""
        return len(self.spec)


def split_alias(program: str) -> tuple[str, str | None]:
    """The name and the alias of what a `submit` calls `program`."""
    name, mark, alias = program.partition(ALIAS_MARK)
    return (name, alias) if mark else (program, None)


def canonical(spec: dict[str, Any]) -> bytes:
    """The spec as msgpack in the one form that its revision is made of."""
    return _canonical.encode(spec)


def revision_of(spec: bytes) -> str:
    """The revision of a spec in its canonical form: 32 hex digits of its SHA-256."""
    return hashlib.sha256(spec).hexdigest()[:32]


class Keeper(Protocol):
    """Keeps definitions and aliases over restarts: a promise is made only when it is kept.

    Each method returns when that is so. Raises ProtocolError `store_failed`; then nothing has changed.
    """

    def define(self, definition: Definition) -> None:
        """Keep it."""

    def undefine(self, name: str, revision: str) -> None:
        """Forget it."""

    def set_alias(self, name: str, alias: str, revision: str | None) -> None:
        """Let the alias stand for this revision, or for none."""


class Definitions:
    """All of a broker, in the order in which they were defined. Without a keeper they end with it."""

    def __init__(self, *, most: int, most_bytes: int, keeper: Keeper | None = None) -> None:
        self._most = most
        self._keeper = keeper
        self._most_bytes = most_bytes
        self._by_name: dict[str, dict[str, Definition]] = {}
        self._aliases: dict[str, dict[str, str]] = {}
        self._count = 0
        self._bytes = 0

    @property
    def allowed(self) -> bool:
        """Whether the operator lets clients define programs."""
        return self._most > 0

    def get(self, name: str, revision: str) -> Definition | None:
        """One definition."""
        return self._by_name.get(name, {}).get(revision)

    def revisions(self, name: str) -> Iterable[str]:
        """Those that were defined for a name, oldest first."""
        return self._by_name.get(name, {})

    @property
    def all(self) -> Iterator[Definition]:
        """Each, by name in the order of the first of each."""
        return (one for kept in self._by_name.values() for one in kept.values())

    def check_room(self, spec: bytes) -> None:
        """Raises ProtocolError `definitions_full`."""
        if self._count >= self._most:
            raise ProtocolError("definitions_full", f"{self._count} programs are defined, which is the limit")
        if self._bytes + len(spec) > self._most_bytes:
            text = f"the specs of defined programs have {self._bytes} bytes, the limit is {self._most_bytes}"
            raise ProtocolError("definitions_full", text)

    def restore(self, definitions: Iterable[Definition], aliases: Iterable[tuple[str, str, str]]) -> None:
        """What was kept: definitions in their order, and (name, alias, revision)."""
        for definition in definitions:
            self._add(definition)
        for name, alias, revision in aliases:
            self._set_alias(name, alias, revision)

    def add(self, definition: Definition) -> None:
        """Keep it. Raises ProtocolError `store_failed`."""
        if self._keeper is not None:
            self._keeper.define(definition)
        self._add(definition)

    def _add(self, definition: Definition) -> None:
        kept = self._by_name.setdefault(definition.name, {})
        if definition.revision not in kept:
            kept[definition.revision] = definition
            self._count += 1
            self._bytes += definition.size_bytes

    def remove(self, name: str, revision: str) -> None:
        """Forget it. Raises ProtocolError `store_failed`."""
        if self._keeper is not None:
            self._keeper.undefine(name, revision)
        gone = self._by_name[name].pop(revision)
        self._count -= 1
        self._bytes -= gone.size_bytes
        if not self._by_name[name]:
            del self._by_name[name]

    def aliases(self, name: str) -> dict[str, str]:
        """The revisions of a program's aliases."""
        return dict(sorted(self._aliases.get(name, {}).items()))

    def aliased(self, program: str) -> str | None:
        """The revision that `qa@prod` stands for now; None if there is no such alias."""
        name, alias = split_alias(program)
        return None if alias is None else self._aliases.get(name, {}).get(alias)

    def set_alias(self, name: str, alias: str, revision: str | None) -> None:
        """Let the alias stand for this revision from now on; None removes it. Raises ProtocolError `store_failed`."""
        if self._keeper is not None:
            self._keeper.set_alias(name, alias, revision)
        self._set_alias(name, alias, revision)

    def _set_alias(self, name: str, alias: str, revision: str | None) -> None:
        if revision is not None:
            self._aliases.setdefault(name, {})[alias] = revision
        elif self._aliases.get(name, {}).pop(alias, None) is not None and not self._aliases[name]:
            del self._aliases[name]
