"""The text of `dspymq status`. Pure, up to the console."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from dspymq.cli.output import console

_COLOURS = {"ready": "green", "starting": "cyan", "isolated": "cyan", "syncing": "cyan"}
"""Of states in which all is well; others are yellow."""


def show_status(address: str, stats: Mapping[str, Any], workers: Sequence[Mapping[str, Any]]) -> None:
    """Print all of it."""
    out = console()
    out.print(Text.assemble("broker ", (address, "bold"), f"  up {duration(stats.get('uptime_ms'))}"))
    out.print(headline(stats))
    if workers:
        out.print()
        out.print(worker_table(workers, now_ms=time.time_ns() // 1_000_000))
        for line in problem_lines(workers):
            out.print(Text(line, style="yellow"))
    else:
        out.print("no workers; start some: dspymq worker MODULE")
    for line in circuit_lines(stats.get("circuits") or []):
        out.print(Text(line, style="yellow"))
    queues = stats.get("queues") or []
    if queues:
        out.print()
        out.print(queue_table(queues))
    counts = {name: count for name, count in (stats.get("counts") or {}).items() if count}
    if counts:
        out.print()
        out.print("since the broker's start: " + ", ".join(f"{name} {counts[name]}" for name in sorted(counts)))


def headline(stats: Mapping[str, Any]) -> str:
    """Jobs, slots and peers in one line."""
    jobs = stats.get("jobs") or {}
    parts = [f"{jobs.get('in_flight', 0)} in flight", f"{jobs.get('queued', 0)} queued", f"{jobs.get('kept', 0)} kept"]
    for lane, slots in sorted((stats.get("slots") or {}).items()):
        name = "slots" if lane == "default" else f"{lane} slots"
        parts.append(f"{slots.get('used', 0)} of {slots.get('granted', 0)} {name} taken")
    clients = stats.get("clients", 0)
    parts.append(f"{clients} client{'' if clients == 1 else 's'}")
    return "jobs: " + ", ".join(parts)


def worker_table(workers: Sequence[Mapping[str, Any]], now_ms: int) -> Table:
    """A row a worker, and below it one an executor. `now_ms` is Unix time."""
    table = _table("WORKER", "STATE", "PID", "IN FLIGHT", "SLOTS", "DONE", "MEMORY", "AGE", "PROGRAMS")
    for worker in workers:
        programs = ", ".join(name for name in worker.get("programs") or {} if not name.startswith("_"))
        table.add_row(
            Text(str(worker.get("name") or worker.get("worker")), style="bold"),
            _state(str(worker.get("state"))),
            "",
            _lanes(worker.get("in_flight")),
            _lanes(worker.get("slots")),
            "",
            "",
            "",
            programs or "-",
        )
        for executor in worker.get("executors") or []:
            if executor.get("problem"):
                continue
            started_ms = executor.get("started_at_ms")
            table.add_row(
                f"  {executor.get('id')}",
                _state(str(executor.get("state"))),
                str(executor.get("pid") or "-"),
                str(executor.get("in_flight", 0)),
                _lanes(executor.get("slots")),
                str(executor.get("jobs", "-")),
                memory(executor),
                duration(now_ms - started_ms) if isinstance(started_ms, int) else "-",
                "",
            )
    return table


def problem_lines(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with workers, in their own words: a line each."""
    return [
        f"{worker.get('name') or worker.get('worker')}: {row.get('id')} {row.get('state')}: {row.get('problem')}"
        for worker in workers
        for row in worker.get("executors") or []
        if row.get("problem")
    ]


def circuit_lines(circuits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Programs that are not run for now: a line each."""
    return [
        f"{one.get('program')} at {one.get('revision')} failed {one.get('failures')} times in a row: "
        + ("tried again with the next job" if one.get("state") == "trial" else "not run for ")
        + ("" if one.get("state") == "trial" else duration(one.get("retry_after_ms")))
        for one in circuits
    ]


def memory(executor: Mapping[str, Any]) -> str:
    """A process's own memory, and what it shares with others: `85+140 MiB`."""
    private, shared = executor.get("private_bytes"), executor.get("shared_bytes")
    if not isinstance(private, int) or not isinstance(shared, int):
        return "-"
    return f"{private >> 20}+{shared >> 20} MiB"


def queue_table(queues: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each kind of jobs that wait, the longest queue first."""
    table = _table("QUEUED", "PROGRAM", "PROFILE", "LANE", "FLOWS", "MISSING")
    for queue in sorted(queues, key=lambda one: -int(one.get("queued", 0))):
        table.add_row(
            str(queue.get("queued")),
            str(queue.get("program")),
            str(queue.get("profile") or "-"),
            str(queue.get("lane")),
            str(queue.get("flows")),
            Text(", ".join(queue.get("missing") or []) or "-", style="yellow" if queue.get("missing") else ""),
        )
    return table


def duration(ms: Any) -> str:
    """Milliseconds as people say them: `850 ms`, `12 s`, `3 min`, `5 h`, `2 d`."""
    if not isinstance(ms, int | float):
        return "-"
    for limit, size, unit in _UNITS:
        if ms < limit:
            return f"{max(0, int(ms)) // size} {unit}"
    return f"{int(ms) // 86_400_000} d"


_UNITS = ((1_000, 1, "ms"), (120_000, 1_000, "s"), (7_200_000, 60_000, "min"), (172_800_000, 3_600_000, "h"))
"""(below this many ms, ms in one unit, its name)."""


def _state(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, "yellow"))


def _lanes(lanes: Any) -> str:
    if not isinstance(lanes, Mapping):
        return "-"
    if set(lanes) <= {"default"}:
        return str(lanes.get("default", 0))
    return ", ".join(f"{name} {count}" for name, count in sorted(lanes.items()))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
