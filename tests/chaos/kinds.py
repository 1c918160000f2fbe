"""The kinds of jobs that make the load, and how each may end, whatever happens to the system meanwhile."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from tests.lm import expected_answer

TIMEOUT_MS: Final = 150_000
"""Of jobs that are to be answered: longer than any fault and its healing."""
LARGE_BYTES: Final = 1024 * 1024
HANG_MS: Final = 30_000


@dataclasses.dataclass(frozen=True)
class Job:
    """One job of the plan: what its client is told, and what is expected of it.

    `call` names it in all ledgers. `outputs` are those of a good end, as far as they are known before.
    """

    call: str
    kind: str
    program: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any] | None = None
    timeout_ms: int = TIMEOUT_MS
    stream: bool = False
    window: int | None = None
    tools: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cancel_after_ms: int | None = None

    @property
    def keeps(self) -> bool:
        """Whether it outlives its client."""
        return self.options.get("on_disconnect") == "keep"

    def told(self) -> dict[str, Any]:
        """The line for its driver."""
        line: dict[str, Any] = {"tell": "submit", "call": self.call, "program": self.program, "inputs": self.inputs}
        line["timeout_ms"] = self.timeout_ms
        if self.stream:
            line["stream"] = True
        if self.window is not None:
            line["window"] = self.window
        if self.tools:
            line["tools"] = list(self.tools)
        if self.options:
            line["options"] = dict(self.options)
        return line


def ask(
    call: str,
    kind: str,
    *,
    program: str = "qa",
    delay_ms: int = 0,
    tokens: int | None = None,
    more: str = "",
    **job: Any,
) -> Job:
    """A question to the LM, which says whose it is."""
    text = f"#job={call} what of {call}?"
    question = f"{text} #delay_ms={delay_ms} {more}".strip()
    if tokens is not None:
        question += f" #tokens={tokens}"
    answer = expected_answer("answer", text, tokens=tokens)
    inputs = {"question": question, **job.pop("inputs", {})}
    return Job(call, kind, program, inputs, {"answer": answer, **job.pop("outputs", {})}, **job)


def short(dice: random.Random, call: str) -> Job:
    return ask(call, "short", delay_ms=dice.randrange(300))


def threaded(dice: random.Random, call: str) -> Job:
    return ask(call, "threaded", program="sync_qa", delay_ms=dice.randrange(300))


def versioned(dice: random.Random, call: str) -> Job:
    return Job(call, "versioned", "say", {"ms": dice.randrange(300)})


def long(dice: random.Random, call: str) -> Job:
    return ask(call, "long", delay_ms=dice.randrange(2_000, 5_000))


def stream(dice: random.Random, call: str) -> Job:
    more = f"#chunk=9 #token_ms={dice.randrange(5, 40)}"
    return ask(call, "stream", tokens=dice.randrange(10, 40), more=more, stream=True)


def window(dice: random.Random, call: str) -> Job:
    """Read a little at a time, with credit."""
    more = f"#chunk=9 #token_ms={dice.randrange(5, 40)}"
    return ask(call, "window", tokens=dice.randrange(10, 40), more=more, stream=True, window=dice.choice([1, 4]))


def tools(dice: random.Random, call: str) -> Job:
    numbers = [dice.randrange(100) for _ in range(dice.randrange(1, 5))]
    sums = {"inputs": {"numbers": numbers}, "outputs": {"total": sum(numbers)}}
    return ask(call, "tools", program="consult", delay_ms=dice.randrange(200), tools=("add",), **sums)


def cancelled(dice: random.Random, call: str) -> Job:
    return ask(call, "cancelled", delay_ms=dice.randrange(500, 2_500), cancel_after_ms=dice.randrange(1_500))


def expiring(dice: random.Random, call: str) -> Job:
    return ask(call, "expiring", delay_ms=HANG_MS, timeout_ms=dice.randrange(300, 2_000))


def invalid(dice: random.Random, call: str) -> Job:
    inputs = dice.choice([{}, {"question": [call]}, {"question": call, "colour": "red"}, {"ask": call}])
    return Job(call, "invalid", "qa", inputs)


def unknown(dice: random.Random, call: str) -> Job:
    return Job(call, "unknown", f"nobody_has_{dice.randrange(5)}", {"question": call}, timeout_ms=6_000)


def poison(dice: random.Random, call: str) -> Job:
    return Job(call, "poison", "dies", {"ms": dice.randrange(100)})


def fails(dice: random.Random, call: str) -> Job:
    return Job(call, "fails", "fails", {"text": call})


def kept(dice: random.Random, call: str) -> Job:
    """Goes on without its client; where that comes back under its name, it asks again."""
    options = {"on_disconnect": "keep"}
    return ask(call, "kept", delay_ms=dice.randrange(500, 3_000), options=options)


def effects(dice: random.Random, call: str, kind: str = "effects", **job: Any) -> Job:
    inputs = {"call": call, "steps": dice.choice([dice.randrange(2, 30), dice.randrange(2, 30), 150])}
    return ask(call, kind, program="effects", delay_ms=dice.randrange(200), inputs=inputs, **job)


def once(dice: random.Random, call: str) -> Job:
    """Never run again once it may have begun."""
    return effects(dice, call, "once", options={"redeliver": False})


def batch(dice: random.Random, call: str) -> Job:
    """Another lane, and any priority."""
    options = {"lane": "batch", "priority": dice.randrange(10)}
    return ask(call, "batch", delay_ms=dice.randrange(400), options=options)


def large(dice: random.Random, call: str) -> Job:
    text = f"{call} {dice.getrandbits(4 * LARGE_BYTES):x}"
    return Job(call, "large", "echo", {"text": text}, {"text": text})


class Kind(NamedTuple):
    """How a job of this kind is made, how often relative to others, and what else than calling its client has to do."""

    make: Callable[[random.Random, str], Job]
    weight: int
    needs: frozenset[str] = frozenset()


KINDS: Final = {
    "short": Kind(short, 16),
    "threaded": Kind(threaded, 6),
    "versioned": Kind(versioned, 4),
    "long": Kind(long, 4),
    "stream": Kind(stream, 8),
    "window": Kind(window, 4, frozenset({"read"})),
    "tools": Kind(tools, 6, frozenset({"tools"})),
    "cancelled": Kind(cancelled, 6),
    "expiring": Kind(expiring, 4),
    "invalid": Kind(invalid, 3),
    "unknown": Kind(unknown, 2),
    "poison": Kind(poison, 1),
    "fails": Kind(fails, 2),
    "kept": Kind(kept, 4),
    "effects": Kind(effects, 6),
    "once": Kind(once, 4),
    "batch": Kind(batch, 4),
    "large": Kind(large, 2),
}

LOST: Final = "UNAVAILABLE worker_lost"
POISON: Final = "ABORTED poison"
USUAL: Final = {LOST: 3, POISON: 2}
NOBODY: Final = {"UNAVAILABLE broker_unreachable": 0, "UNAVAILABLE unreachable": 0}
"""There was no broker in all the time that a job had; the second is the Elixir client's word for it."""

ENDS: Final[Mapping[str, Mapping[str, int]]] = {
    "short": {"OK": 0, **USUAL},
    "threaded": {"OK": 0, **USUAL},
    "versioned": {"OK": 0, **USUAL},
    "long": {"OK": 0, **USUAL},
    "stream": {"OK": 0, **USUAL},
    "window": {"OK": 0, **USUAL},
    "tools": {"OK": 0, **USUAL},
    "cancelled": {"OK": 0, "CANCELLED cancelled": 0, **USUAL},
    "expiring": {"DEADLINE_EXCEEDED deadline": 0, **USUAL, **NOBODY},
    "invalid": {"INVALID_ARGUMENT invalid_inputs": 0, **USUAL},
    "unknown": {"NOT_FOUND unknown_program": 0, "DEADLINE_EXCEEDED deadline": 1, **NOBODY},
    "poison": {POISON: 0, "UNAVAILABLE circuit_open": 0, LOST: 1},
    "fails": {"UNKNOWN program_error": 0, "UNAVAILABLE circuit_open": 0, **USUAL},
    "kept": {"OK": 0, **USUAL},
    "effects": {"OK": 0, **USUAL},
    "once": {"OK": 0, LOST: 1},
    "batch": {"OK": 0, **USUAL},
    "large": {"OK": 0, **USUAL},
}
"""How each kind may end, as "CODE reason", and how many losses (of processes, workers or brokers, see
tests.chaos.timeline) it takes at least: three attempts, or two deaths of a process, are needed to give a job up."""
