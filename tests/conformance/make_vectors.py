"""Writes protocol/vectors: `python -m tests.conformance.make_vectors` after a change (a test compares)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from dspymq.conformance.vectors import VECTORS
from tests.conformance import (
    transcripts_broker_definitions,
    transcripts_broker_jobs,
    transcripts_broker_leases,
    transcripts_broker_queues,
    transcripts_broker_requests,
    transcripts_broker_restart,
    transcripts_broker_sessions,
    transcripts_broker_stops,
    transcripts_broker_streams,
    transcripts_client,
    transcripts_worker_life,
    transcripts_worker_programs,
    vector_encodings,
    vector_ids,
    vector_invalid,
)
from tests.conformance.vector_steps import Transcript

TRANSCRIPTS: Final = {
    "broker-sessions": transcripts_broker_sessions,
    "broker-jobs": transcripts_broker_jobs,
    "broker-stops": transcripts_broker_stops,
    "broker-leases": transcripts_broker_leases,
    "broker-restart": transcripts_broker_restart,
    "broker-streams": transcripts_broker_streams,
    "broker-requests": transcripts_broker_requests,
    "broker-definitions": transcripts_broker_definitions,
    "broker-queues": transcripts_broker_queues,
    "client": transcripts_client,
    "worker-life": transcripts_worker_life,
    "worker-programs": transcripts_worker_programs,
}
FORMAT: Final = 1
_COLUMNS: Final = 118


def files() -> Iterator[tuple[Path, str]]:
    """Each file of vectors with its text, but for the README."""
    for name, data in (
        ("encodings", vector_encodings.build()),
        ("invalid", vector_invalid.build()),
        ("digests", vector_ids.digests()),
        ("ids", vector_ids.ids()),
    ):
        yield VECTORS / f"{name}.json", shown({"format": FORMAT, **data})
    for name, module in TRANSCRIPTS.items():
        role, title = name.partition("-")[0], str(module.__doc__).partition(": ")[2].partition(".")[0]
        yield VECTORS / "transcripts" / f"{name}.json", shown(_transcripts(role, title, module.transcripts()))


def _transcripts(role: str, title: str, made: Iterable[Transcript]) -> dict[str, Any]:
    data = [each.data() for each in made]
    names = [each["name"] for each in data]
    assert len(set(names)) == len(names), f"a name stands twice: {names}"
    return {"format": FORMAT, "role": role, "about": title, "transcripts": data}


def shown(value: Any) -> str:
    """JSON with one line for each value that fits into one."""
    return "\n".join(_lines(value, "")) + "\n"


def _lines(value: Any, indent: str, before: str = "") -> Iterator[str]:
    line = f"{indent}{before}{json.dumps(value, ensure_ascii=False)}"
    if len(line) <= _COLUMNS or not value or not isinstance(value, dict | list):
        yield line
        return
    first, last = "{}" if isinstance(value, dict) else "[]"
    yield f"{indent}{before}{first}"
    items = (
        [(f"{json.dumps(k)}: ", v) for k, v in value.items()] if isinstance(value, dict) else [("", v) for v in value]
    )
    for number, (name, inner) in enumerate(items):
        lines = list(_lines(inner, f"{indent} ", name))
        yield from lines[:-1]
        yield lines[-1] + ("," if number < len(items) - 1 else "")
    yield f"{indent}{last}"


def main() -> None:
    """Write what has changed, and remove what is no longer made."""
    made = dict(files())
    for path in sorted(VECTORS.rglob("*.json")):
        if path not in made:
            path.unlink()
            print(f"removed {path.relative_to(VECTORS)}")
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"wrote {path.relative_to(VECTORS)}")


if __name__ == "__main__":
    main()
