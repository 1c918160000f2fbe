"""What becomes of a job when one process of the system is killed, or stands still, at each point of its way.

Two literal tables, for jobs that may be run again and for those with `redeliver: false`: for each victim, fault and
point the job's one end, its attempt, how many requests its model got, and why. test_matrix*.py carry every cell out
against real processes; `markdown()` is the same for docs/reliability.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.faults.matrix import (
    Cell,
    Fault,
    Nothing,
    Outcome,
    Point,
    Same,
    Victim,
    again,
    expired,
    gone,
    lost,
    once,
    stopped,
)

P = Point
Said = Outcome | Same | Nothing

_HOLDS_NOTHING: Final = "nobody but the broker and the client has heard of the job; who is missed for it loses nothing"

TABLE: Final[Mapping[Victim, Mapping[Fault, Mapping[Point, Said]]]] = {
    Victim.EXECUTOR: {
        Fault.KILL: {
            P.BEFORE_READY: once("queued at the broker; the pool starts another process"),
            P.IDLE: once("replaced at once"),
            P.DISPATCHED: again("it had not said that it began: given back, and not charged (R-6.9)", requests=1),
            P.RUNNING: again("died alone with it: convicted once, runs again in a process of its own", requests=2),
            P.STREAMING: again("the same; the stream begins anew with a reset (R-9.6)", requests=2),
            P.ANSWERING: again("the half that nobody has read is lost; a whole one would count (R-6.28)", requests=2),
            P.UNACKED: once("its supervisor has the result"),
        },
        Fault.PAUSE: {
            P.BEFORE_READY: once("an import may take `start_timeout_ms`"),
            P.IDLE: once("nobody notices"),
            P.DISPATCHED: once("the job waits in its pipe"),
            P.RUNNING: once("its model's answer waits in its socket"),
            P.STREAMING: once("the rest of the text waits in its socket"),
            P.ANSWERING: once("the rest of the result comes when it goes on"),
            P.UNACKED: once("its supervisor has the result"),
        },
        Fault.FREEZE: {
            P.BEFORE_READY: Same(Fault.PAUSE, "what imports has no beat; `start_timeout_ms` is its only bound"),
            P.IDLE: once("past `stall_ms` it gets no jobs, past twice that it is replaced"),
            P.DISPATCHED: once("the job waits for it: it might have begun"),
            P.RUNNING: once("the job waits for it, at most until its deadline and the grace"),
            P.STREAMING: once("the same"),
            P.ANSWERING: once("the same"),
            P.UNACKED: once("its supervisor has the result"),
        },
    },
    Victim.SUPERVISOR: {
        Fault.KILL: {
            P.BEFORE_READY: once("queued at the broker until the next pool is ready"),
            P.IDLE: once("lost after `dead_ms`; the next pool serves"),
            P.DISPATCHED: again("lost with what was in its socket; the broker cannot know, and charges it", requests=1),
            P.RUNNING: again("its executors end with it; lost after `dead_ms`, runs in the next pool", requests=2),
            P.STREAMING: again("the same; the stream begins anew with a reset", requests=2),
            P.ANSWERING: again("the half that came to the broker is no result", requests=2),
            P.UNACKED: once("the broker reads what came whole before it hears of the end"),
        },
        Fault.PAUSE: {
            P.BEFORE_READY: Same(Fault.FREEZE, _HOLDS_NOTHING),
            P.IDLE: once("nobody notices"),
            P.DISPATCHED: once("taken from its socket while it may be: less than `dead_ms` less `ping_ms` (R-3.16)"),
            P.RUNNING: once("its executors go on without it"),
            P.STREAMING: once("the text waits in its pipe"),
            P.ANSWERING: once("its I/O stands still with it: the rest comes when it goes on"),
            P.UNACKED: once("the broker has the result, and its acknowledgement waits"),
        },
        Fault.FREEZE: {
            P.BEFORE_READY: once("it held nothing; begins a new session"),
            P.IDLE: once("lost, and ready again in a new session"),
            P.DISPATCHED: again("what waited in its socket is never started (R-3.16): dispatched anew", requests=1),
            P.RUNNING: once("lost; its lease is adopted as it stands, since nobody began the job again"),
            P.STREAMING: once("adopted; the client is sent the text so far with a reset"),
            P.ANSWERING: once("lost in the middle of its message; holds the result, and sends it after adoption"),
            P.UNACKED: once("the broker has the result"),
        },
    },
    Victim.BROKER: {
        Fault.KILL: {
            P.BEFORE_READY: once("sent again by its client; queued after `adopt_ms` in which no worker reported it"),
            P.IDLE: once("client and pool find the next broker"),
            P.DISPATCHED: once("held by its supervisor, adopted by the next broker (R-8.5)"),
            P.RUNNING: once("held, adopted"),
            P.STREAMING: once("held, adopted; the client is sent the text so far with a reset"),
            P.ANSWERING: once("the result is held by its supervisor until it is acknowledged (R-6.7)"),
            P.UNACKED: once("the same"),
        },
        Fault.PAUSE: {
            P.BEFORE_READY: Same(Fault.FREEZE, _HOLDS_NOTHING),
            P.IDLE: once("nobody notices"),
            P.DISPATCHED: once("the job goes on without it"),
            P.RUNNING: once("the job goes on without it"),
            P.STREAMING: once("the text waits in its socket"),
            P.ANSWERING: once("the rest of the result comes when it reads"),
            P.UNACKED: once("the result waits in its socket"),
        },
        Fault.FREEZE: {
            P.BEFORE_READY: once("client and pool greet it again; it forgives all silence of that time (R-3.15)"),
            P.IDLE: once("the same"),
            P.DISPATCHED: once("the same; the lease is in `held`, and is kept"),
            P.RUNNING: once("the same"),
            P.STREAMING: once("the same; the client is sent the text so far with a reset"),
            P.ANSWERING: once("the half message is dropped with its connection; sent again after `synced`"),
            P.UNACKED: once("read before anybody is judged, or sent again after `synced`"),
        },
    },
    Victim.CLIENT: {
        Fault.KILL: {
            P.BEFORE_READY: gone("cancelled in the queue, `orphan_ms` after it was missed", attempt=0, requests=0),
            P.IDLE: once("others are served"),
            P.DISPATCHED: gone("cancelled before it began", attempt=1, requests=0),
            P.RUNNING: gone("its LM request is closed", attempt=1, requests=1),
            P.STREAMING: gone("its LM request is closed", attempt=1, requests=1),
            P.ANSWERING: once("the result is kept for `retain_ms`, for whoever asks for it again"),
            P.UNACKED: once("the same"),
        },
        Fault.PAUSE: {
            P.BEFORE_READY: Same(Fault.FREEZE, _HOLDS_NOTHING),
            P.IDLE: once("nobody notices"),
            P.DISPATCHED: once("the job goes on without it"),
            P.RUNNING: once("the job goes on without it"),
            P.STREAMING: once("the text waits for it"),
            P.ANSWERING: once("the rest of the result comes when it reads"),
            P.UNACKED: once("the result waits in its socket"),
        },
        Fault.FREEZE: {
            P.BEFORE_READY: once("its session is over; back within `orphan_ms` it sends the job again, and attaches"),
            P.IDLE: once("begins a new session"),
            P.DISPATCHED: once("as before ready: attaches"),
            P.RUNNING: once("attaches"),
            P.STREAMING: once("attaches, and is sent the text so far with a reset"),
            P.ANSWERING: once("the half message ends with its connection; it asks again, and gets the kept result"),
            P.UNACKED: once("it has the result, or asks again and gets the kept one"),
        },
    },
    Victim.JOB: {
        Fault.CANCEL: {
            P.BEFORE_READY: stopped("ended in the queue", attempt=0, requests=0),
            P.IDLE: Nothing("there is no job"),
            P.DISPATCHED: stopped("ended before it began", attempt=1, requests=0),
            P.RUNNING: stopped("its LM request is closed", attempt=1, requests=1),
            P.STREAMING: stopped("its LM request is closed", attempt=1, requests=1),
            P.ANSWERING: once("the program had ended: its result stands (R-7.5)"),
            P.UNACKED: once("it had ended"),
        },
        Fault.DEADLINE: {
            P.BEFORE_READY: expired("ended in the queue", attempt=0, requests=0),
            P.IDLE: Nothing("there is no job"),
            P.DISPATCHED: expired("ended before it began", attempt=1, requests=0),
            P.RUNNING: expired("its LM request is closed", attempt=1, requests=1),
            P.STREAMING: expired("its LM request is closed", attempt=1, requests=1),
            P.ANSWERING: expired(
                "a result that comes later is too late, whatever it is (R-7.3)", attempt=1, requests=1
            ),
            P.UNACKED: Same(Fault.CANCEL, "it had ended"),
        },
    },
}
"""The pool of these cells is the only one, and `on_disconnect` is `cancel`."""

_NEVER_SENT: Final = "it was never dispatched"

NOT_TWICE: Final[Mapping[Victim, Mapping[Fault, Mapping[Point, Said]]]] = {
    Victim.EXECUTOR: {
        Fault.KILL: {
            P.BEFORE_READY: Same(Fault.KILL, _NEVER_SENT),
            P.IDLE: Same(Fault.KILL, _NEVER_SENT),
            P.DISPATCHED: again("its supervisor knows that it had not begun (R-6.11)", requests=1),
            P.RUNNING: lost("it had begun", requests=1),
            P.STREAMING: lost("it had begun", requests=1),
            P.ANSWERING: lost("a half result is none", requests=1),
            P.UNACKED: once("its supervisor has the result"),
        },
    },
    Victim.SUPERVISOR: {
        Fault.KILL: {
            P.BEFORE_READY: Same(Fault.KILL, _NEVER_SENT),
            P.IDLE: Same(Fault.KILL, _NEVER_SENT),
            P.DISPATCHED: lost("nobody is left who could say that it had not begun (R-6.29)", requests=0),
            P.RUNNING: lost("it had begun", requests=1),
            P.STREAMING: Same(Fault.KILL, "it had begun", P.RUNNING),
            P.ANSWERING: Same(Fault.KILL, "it had begun", P.RUNNING),
            P.UNACKED: once("the broker has the result"),
        },
        Fault.FREEZE: {
            P.BEFORE_READY: Same(Fault.FREEZE, _NEVER_SENT),
            P.IDLE: Same(Fault.FREEZE, _NEVER_SENT),
            P.DISPATCHED: lost("ended when its worker was missed; never started (R-3.16)", requests=0),
            P.RUNNING: lost("ended when its worker was missed; stopped at the LM when that comes back", requests=1),
            P.STREAMING: lost("the same", requests=1),
            P.ANSWERING: lost("ended when its worker was missed; its result comes too late", requests=1),
            P.UNACKED: once("the broker has the result"),
        },
    },
    Victim.BROKER: {
        Fault.KILL: {
            P.BEFORE_READY: lost("the next broker cannot know that nobody began it (R-8.4)", attempt=0, requests=0),
            P.IDLE: Same(Fault.KILL, "there was no job"),
            P.DISPATCHED: once("held by its supervisor, adopted by the next broker"),
            P.RUNNING: once("held, adopted"),
            P.STREAMING: once("held, adopted"),
            P.ANSWERING: once("the result is held by its supervisor until it is acknowledged"),
            P.UNACKED: once("the same"),
        },
    },
}
"""Jobs with `redeliver: false`; what is not here is as in TABLE, where such a job runs once in any case."""


QUICK: Final = frozenset(
    {
        (Victim.EXECUTOR, Fault.KILL, P.DISPATCHED),
        (Victim.EXECUTOR, Fault.KILL, P.RUNNING),
        (Victim.EXECUTOR, Fault.KILL, P.STREAMING),
        (Victim.EXECUTOR, Fault.KILL, P.ANSWERING),
        (Victim.SUPERVISOR, Fault.KILL, P.RUNNING),
        (Victim.SUPERVISOR, Fault.FREEZE, P.DISPATCHED),
        (Victim.BROKER, Fault.KILL, P.RUNNING),
        (Victim.BROKER, Fault.KILL, P.UNACKED),
        (Victim.BROKER, Fault.FREEZE, P.ANSWERING),
        (Victim.CLIENT, Fault.KILL, P.RUNNING),
        (Victim.CLIENT, Fault.FREEZE, P.STREAMING),
    }
)
"""One of each kind, for every run; the others are part of the soak."""


CELLS: Final = tuple(
    Cell(victim, fault, point, outcome, redeliver)
    for table, redeliver in ((TABLE, True), (NOT_TWICE, False))
    for victim, faults in table.items()
    for fault, points in faults.items()
    for point, outcome in points.items()
)


def is_quick(cell: Cell) -> bool:
    """Whether it is tried in every run."""
    return cell.redeliver and (cell.victim, cell.fault, cell.point) in QUICK


def markdown() -> str:
    """The tables for docs/reliability.md, each with the reasons of all that is not simply `once`."""
    return f"{_markdown(redeliver=True)}\nWith `redeliver: false`, where that differs:\n\n{_markdown(redeliver=False)}"


def original(cell: Cell) -> Cell:
    """The cell itself, or the one that it is the same as."""
    if not isinstance(cell.outcome, Same):
        return cell
    point = cell.outcome.point or cell.point
    redeliver = cell.redeliver or cell.outcome.point is None
    return next(one for one in CELLS if one.place == (cell.victim, cell.outcome.fault, point, redeliver))


def _markdown(*, redeliver: bool) -> str:
    lines = ["| | " + " | ".join(Point) + " |", "|" + "---|" * (len(Point) + 1)]
    notes = []
    rows: dict[str, list[str]] = {}
    for cell in CELLS:
        if cell.redeliver is redeliver:
            shown = original(cell).outcome
            assert not isinstance(shown, Same), "a cell is the same as one that is tried"
            rows.setdefault(f"{cell.victim} {cell.fault}", []).append(shown.text())
            if isinstance(shown, Outcome) and shown != once(shown.why) and shown is cell.outcome:
                notes.append(f"- {cell.victim} {cell.fault}, {cell.point}: {shown.why}.")
    lines += [f"| {name} | {' | '.join(texts)} |" for name, texts in rows.items()]
    return "\n".join([*lines, "", *notes]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
