"""Makes the table of docs/reliability.md from reports: `python -m tests.chaos.table REPORT.json ...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = (
    "seed",
    "jobs",
    "faults",
    "clients killed",
    "answered",
    "cancelled, expired",
    "refused, failed",
    "poison",
    "lost",
    "jobs at the LM, requests",
    "longest answer",
    "tokens told, counted",
    "MiB broker, supervisor, executor",
    "wrong",
)


def row(report: Mapping[str, Any]) -> list[str]:
    """One run, as cells of HEAD."""
    figures = report["figures"]
    ends: Mapping[str, int] = figures["ends"]

    def count(*codes: str) -> int:
        return sum(number for end, number in ends.items() if end.startswith(codes))

    before, after = figures["before"]["mib"], figures["after"]["mib"]
    memory = [f"{before[name]:.0f} → {after[name]:.0f}" for name in ("broker", "one", "one/executor")]
    return [
        str(report["seed"]),
        str(figures["jobs"]),
        str(sum(figures["faults"].values())),
        str(figures["faults"].get("kill_client", 0)),
        str(count("OK")),
        f"{count('CANCELLED')}, {count('DEADLINE_EXCEEDED')}",
        f"{count('INVALID_ARGUMENT', 'NOT_FOUND')}, {count('UNKNOWN', 'UNAVAILABLE circuit_open')}",
        str(count("ABORTED poison")),
        str(count("UNAVAILABLE worker_lost")),
        f"{figures['lm_jobs']}, {figures['lm_requests']}",
        f"{figures['longest_answer_s']:.0f} s",
        f"{figures['usage_output_tokens']}, {figures['lm_output_tokens_of_those']}",
        ", ".join(memory),
        str(len(report["problems"])),
    ]


def table(reports: list[Mapping[str, Any]]) -> str:
    """All of them in Markdown."""
    rows = [HEAD, ("---",) * len(HEAD), *map(row, reports)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


if __name__ == "__main__":
    print(table([json.loads(Path(name).read_text()) for name in sys.argv[1:]]))
