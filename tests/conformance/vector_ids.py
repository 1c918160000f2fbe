"""digests.json and ids.json: what names a job's content, and what identifiers look like (SPEC sections 2.4, 5.2, 6.1).

Computed here from the words of SPEC.md, not by the code that they are to test.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from tests.conformance.vector_encodings import EPOCH, Fields
from tests.conformance.vector_forms import PairMap, pieces, write

_BODY: Final = write({"inputs": {"question": "2+2?"}})


def digests() -> Fields:
    """The file of digests."""
    submits: list[tuple[str, str, str | None, str | None, bytes]] = [
        ("section 5.2", "qa", None, None, _BODY),
        ("no body", "qa", None, None, b""),
        ("a revision", "qa", "r1", None, _BODY),
        ("the same text as profile", "qa", None, "r1", _BODY),
        ("revision and profile", "qa", "r1", "small", _BODY),
        ("parts cannot flow into each other", "qar", "1", None, _BODY),
        ("the same body in another encoding is another content", "qa", None, None, write(PairMap([("inputs", {})]))),
        ("names in UTF-8", "résumé", "版本", "größe", _BODY),
        ("a body that is no msgpack", "qa", None, None, b"\xc1\x00\xff"),
        ("a long body", "qa", None, None, b"\x00" * 100_000),
        ("an inline program", "_inline", None, None, write({"inputs": {}, "spec": {"signature": "a -> b"}})),
    ]
    rows = []
    for name, program, revision, profile, body in submits:
        names: Fields = {"program": program, "revision": revision, "profile": profile}
        given = {key: value for key, value in names.items() if value is not None}
        rows.append(
            {"name": name, **given, "body": pieces([body])[0], "digest": digest(program, revision, profile, body)}
        )
    return {
        "about": "The digest of a submit: SHA-256 over program, revision, profile and body, each preceded by its "
        "length as 8 octets, big-endian; the first 16 octets in lower-case hexadecimal.",
        "rules": ["R-5.2"],
        "digests": rows,
    }


def digest(program: str, revision: str | None, profile: str | None, body: bytes) -> str:
    parts = [program.encode(), (revision or "").encode(), (profile or "").encode(), body]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()[:32]


def ids() -> Fields:
    """The file of identifiers."""
    valid = ["a", " ", "~", "a" * 64, 'quote " and \\', "017f22e2-7b00-7000-8000-0000000000a1"]
    invalid: dict[str, Any] = {
        "empty": "",
        "65 characters": "a" * 65,
        "a line feed at the end": "a\n",
        "a tab": "a\tb",
        "octet 1f": "a\x1f",
        "octet 7f": "a\x7f",
        "not ASCII": "é",
        "a NUL": "a\x00",
    }
    uuids = [(0x017F22E279B0, EPOCH), (0, "00000000-0000-7000-8000-000000000000")]
    uuids.append(((1 << 48) - 1, "ffffffff-ffff-7fff-bfff-ffffffffffff"))
    leases = [f"{epoch}-{number:012d}" for epoch, number in _leases()]
    return {
        "about": "Identifiers: which texts are ids (as `job` of a submit, for example), UUIDs of version 7 with the "
        "Unix time in milliseconds that they begin with, and leases in their order.",
        "rules": ["R-2.12", "R-6.1", "R-8.1"],
        "valid": valid,
        "invalid": [{"why": why, "id": text} for why, text in invalid.items()],
        "uuid7": [{"unix_ms": ms, "uuid": text} for ms, text in uuids],
        "leases": [
            {"epoch": epoch, "number": number, "lease": lease}
            for (epoch, number), lease in zip(_leases(), leases, strict=True)
        ],
        "ascending": leases,
    }


def _leases() -> list[tuple[str, int]]:
    later = "017f22e2-79b1-7000-8000-000000000000"
    return [(EPOCH, 1), (EPOCH, 2), (EPOCH, 10), (EPOCH, 999999999999), (later, 1), (later, 11)]
