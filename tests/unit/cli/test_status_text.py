"""The text of `dspymq status` and `dspymq programs`."""

import io
from typing import Any

import pytest
from rich.console import Console

from dspymq.cli import programs, status_text
from dspymq.cli.programs import call_line, first_line

STATS: dict[str, Any] = {
    "epoch": "e",
    "uptime_ms": 192_000,
    "clients": 1,
    "workers": 1,
    "jobs": {"live": 9, "queued": 4, "in_flight": 5, "kept": 2},
    "slots": {"default": {"granted": 16, "used": 5}, "batch": {"granted": 1, "used": 0}},
    "queues": [
        {"program": "qa", "profile": None, "lane": "default", "queued": 1, "flows": 1, "missing": []},
        {"program": "other", "profile": "fast", "lane": "batch", "queued": 3, "flows": 2, "missing": ["profile"]},
    ],
    "counts": {"submitted": 12, "refused": 0},
}
WORKERS: list[dict[str, Any]] = [
    {
        "worker": "w1",
        "name": "box-1",
        "state": "ready",
        "slots": {"default": 16, "batch": 1},
        "in_flight": {"default": 5},
        "programs": {"qa": ["r"], "_inline": ["inline"]},
        "executors": [
            {
                "id": "box-1/1",
                "pid": 71,
                "state": "stalled",
                "slots": {"default": 8},
                "in_flight": 5,
                "started_at_ms": 0,
            }
        ],
    }
]


def printed(monkeypatch: pytest.MonkeyPatch, module: Any, show: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200, markup=False, highlight=False)
    monkeypatch.setattr(module, "console", lambda: console)
    show()
    return out.getvalue()


def test_status_shows_workers_executors_queues_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, status_text, lambda: status_text.show_status("tcp://b:1", STATS, WORKERS))
    assert "broker tcp://b:1  up 3 min" in text
    assert "5 in flight, 4 queued, 2 kept, 0 of 1 batch slots taken, 5 of 16 slots taken, 1 client" in text
    assert "box-1/1" in text
    assert "stalled" in text
    assert "batch 1, default 16" in text
    assert "_inline" not in text
    queued = [line.split() for line in text.splitlines() if line.rstrip().endswith((" -", " profile"))]
    assert [(line[0], line[1]) for line in queued] == [("3", "other"), ("1", "qa")]
    assert "since the broker's start: submitted 12" in text
    assert "refused" not in text


def test_status_without_workers_says_how_to_start_some(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, status_text, lambda: status_text.show_status("tcp://b:1", {}, []))
    assert "dspymq worker MODULE" in text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (119_999, "119 s"),
        (120_000, "2 min"),
        (7_200_000, "2 h"),
        (172_800_000, "2 d"),
        (-5, "0 ms"),
        (None, "-"),
    ],
)
def test_durations_are_said_as_people_say_them(ms: Any, text: str) -> None:
    assert status_text.duration(ms) == text


def test_a_program_is_shown_with_its_fields_and_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    program = {
        "name": "person",
        "description": "Find [the] person.",
        "inputs": {
            "properties": {"text": {"type": "string", "description": "any"}, "n": {"type": "integer"}, "x": {}},
            "required": ["text", "n"],
        },
        "outputs": None,
        "revision": "0123456789",
        "workers": ["w1"],
    }
    text = printed(monkeypatch, programs, lambda: programs.show_program(program))
    assert "Find [the] person." in text
    assert "Outputs: not declared by the program" in text
    assert "optional" in text
    assert "Call it: dspymq call person text=... n=JSON" in text
    assert call_line({"name": "a b"}) == "dspymq call 'a b'"


def test_descriptions_are_cut_to_a_line() -> None:
    assert first_line("One.\nTwo.") == "One."
    assert first_line("x" * 100, at_most=10) == "x" * 9 + "…"
    assert first_line(None) == ""


def test_memory_jobs_and_problems_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = {"id": "p/1", "pid": 5, "state": "ready", "slots": {"default": 4}, "in_flight": 0, "jobs": 321}
    sizes = {"private_bytes": 85 << 20, "shared_bytes": 140 << 20}
    problem = {"id": "reload", "pid": None, "state": "failed", "slots": {}, "problem": "app: boom [x] (app.py, line 3)"}
    worker = {"worker": "w", "name": "pool", "state": "ready", "executors": [executor | sizes, problem]}
    text = printed(monkeypatch, status_text, lambda: status_text.show_status("tcp://b:1", {}, [worker]))
    assert "85+140 MiB" in text
    assert " 321 " in text
    assert "pool: reload failed: app: boom [x] (app.py, line 3)" in text
    assert sum("reload" in line for line in text.splitlines()) == 1
