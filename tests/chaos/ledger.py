"""The books: what clients were told, what the LM counted, what was done outside; and whether they agree."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.chaos.callers import Call, Caller
from tests.chaos.kinds import ENDS, LOST, POISON
from tests.chaos.requests import Asked, Requests
from tests.chaos.timeline import LOSES, TOLD, Timeline
from tests.lm import JobStats

NEVER_ASK: Final = frozenset({"versioned", "invalid", "unknown", "poison", "fails", "large"})
"""Kinds whose programs never ask the LM; all others do so once a run."""

ORPHAN_S: Final = 22.0
"""A job goes on so long after its client has gone, at most."""
LATE_S: Final = 1.0
"""What is stopped may do something so much later, as seen from here."""
GOES_ON: Final = frozenset(
    {"lose_pool", "cut_off_pool", "stall_broker", "freeze_broker", "freeze_pool", "cut_pool", "freeze_executor"}
    | {"stall_executor", "pool.own_stall"}
)
"""While these last, the end of a job is not known where it runs: there it goes on (SPEC.md, section 16)."""
COMES_BACK: Final = frozenset({"lose_pool", "cut_off_pool", "pool.own_stall"})
STOPS_S: Final = 3.0
"""So long after one of these it may go on: until there is a session again, and what it dropped is stopped."""
SLOWEST: Final = 5
MOST_LOST: Final = 0.1
"""The share of jobs that may be given up although they could have been answered."""
RERUN_BY_BROKER: Final = 2
"""Jobs that the end of one broker may make run again: those whose results it had taken and not handed on."""


@dataclasses.dataclass(frozen=True)
class Effect:
    """One side effect: step `step` of a run of a call, by a process."""

    call: str
    run: str
    step: int
    pid: int
    at_s: float


def read_effects(path: Path) -> dict[str, dict[str, list[Effect]]]:
    """The side effects by call and run, in their order."""
    found: dict[str, dict[str, list[Effect]]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        effect = Effect(**json.loads(line))
        found.setdefault(effect.call, {}).setdefault(effect.run, []).append(effect)
    return found


class Ledger:
    """All books of one run; `problems()` are the places where they do not agree."""

    def __init__(self, callers: Sequence[Caller], requests: Requests, effects: Path, timeline: Timeline) -> None:
        self.calls = {name: call for caller in callers for name, call in caller.calls.items()}
        self._requests = requests
        self._effects = read_effects(effects)
        self._timeline = timeline

    def problems(self) -> Iterator[str]:
        """What is wrong, one line each."""
        for name, call in self.calls.items():
            for problem in self._of(call):
                yield f"{name} ({call.job.kind}, {call.client}.{call.life}): {problem}"
        strangers = [
            name for name in sorted(self._requests.names()) if name not in self.calls and not name.startswith("warm")
        ]
        if strangers:
            yield f"the LM was asked for jobs that nobody has: {strangers[:5]}"
        if still_open := self._requests.open():
            yield f"{still_open} requests are still open at an LM"

        extra, at_most = self._extra_requests(), self._timeline.lost_attempts()
        if extra > at_most:
            yield f"{extra} requests more at the LM than jobs, where {at_most} attempts may have been lost"
        answerable = [call for call in self.calls.values() if call.outcomes and "OK" in ENDS[call.job.kind]]
        lost = [call for call in answerable if call.end in (LOST, POISON)]
        if len(lost) > len(answerable) * MOST_LOST:
            yield f"{len(lost)} of {len(answerable)} jobs were given up"
        brokers = self._timeline.broker_ends(0, math.inf)
        again = self._run_again_by_brokers()
        if len(again) > RERUN_BY_BROKER * brokers:
            yield f"{brokers} ends of brokers, and nothing else, made {len(again)} jobs run again: {again[:5]}"

    def _extra_requests(self) -> int:
        seen = [self._requests.count(name).requests for name in self.calls]
        return sum(seen) - sum(map(bool, seen))

    def _run_again_by_brokers(self) -> list[str]:
        """Requests that came again although nothing had happened to the pool that had made the one before."""
        return [name for name in self.calls for before, after in self._pairs(name) if not self._was_hit(before, after)]

    def _pairs(self, name: str) -> Iterator[tuple[Asked, Asked]]:
        """Each request of a call, and the next one."""
        return itertools.pairwise(self._requests.of(name))

    def _was_hit(self, before: Asked, after: Asked) -> bool:
        """Whether the pool of a request may have lost it until the next one came."""
        hits = self._timeline.touching(LOSES.keys() | TOLD.keys(), before.at_s - LATE_S, after.at_s, 0.0)
        return any(hit.target == before.pool and hit.what != "broker.down" for hit in hits)

    def _of(self, call: Call) -> Iterator[str]:
        ended_s = call.ended_s if call.ended_s is not None else math.inf
        if call.lost:
            ended_s += ORPHAN_S
        losses = self._timeline.losses(call.began_s, ended_s)
        brokers = self._timeline.broker_ends(call.began_s, ended_s)
        if not call.lost:
            yield from self._of_end(call, losses)
            yield from _of_content(call)
        runs = 1 + losses
        attempt = _attempt(call)
        if attempt is not None and not brokers:
            if attempt > 1 + losses:
                yield f"attempt {attempt} after {losses} losses"
            # One that was taken for lost may come back, and end the job with an earlier attempt than the last.
            if not self._timeline.touching(COMES_BACK, call.began_s, ended_s):
                runs = max(1, attempt)
        yield from self._of_lm(call, runs)
        yield from self._of_effects(call, runs)

    def _of_end(self, call: Call, losses: int) -> Iterator[str]:
        """Exactly one end, and one that is legal."""
        if len(call.outcomes) != 1:
            yield f"{len(call.outcomes)} ends: {call.outcomes}"
            return
        needed = ENDS[call.job.kind].get(call.end)
        if needed is None:
            yield f"may not end so: {call.outcomes[0]}"
        elif losses < needed:
            yield f"ended so after {losses} losses, which takes {needed}: {call.outcomes[0]}"

    def _of_lm(self, call: Call, runs: int) -> Iterator[str]:
        """No more requests than runs, and no tokens that nobody was told of."""
        seen = self._requests.count(call.job.call)
        if call.job.kind in NEVER_ASK:
            runs = 0
        if seen.requests > runs:
            yield f"{seen.requests} requests at the LM in at most {runs} runs; {call.outcomes}"
        for before, after in self._pairs(call.job.call):
            closed_s = self._requests.closed_s(call.job.call, before)
            if closed_s and closed_s > after.at_s + LATE_S and not self._goes_on(closed_s, before.pool):
                yield f"two requests at once, for {closed_s - after.at_s:.1f} s"
        if call.end == "OK" and call.job.kind not in NEVER_ASK and not seen.ok:
            yield f"an answer that the LM never gave: {seen}"
        usage = call.outcomes[0].get("usage") if call.outcomes else None
        if usage is not None:
            yield from _of_usage(call, usage, seen)

    def _of_effects(self, call: Call, runs: int) -> Iterator[str]:
        """No more runs than attempts, each in order, not two at once, and nothing after the end."""
        done = self._effects.get(call.job.call, {})
        if call.job.kind == "once":
            runs = 1
        if len(done) > runs:
            yield f"{len(done)} runs had side effects, in at most {runs} attempts; {call.outcomes}"
        for run, steps in done.items():
            if [effect.step for effect in steps] != list(range(len(steps))):
                yield f"steps of run {run} are not in order: {[effect.step for effect in steps]}"
        if call.end == "OK" and call.job.program == "effects":
            said = done.get(call.outputs.get("run", ""), [])
            if len(said) != call.job.inputs["steps"]:
                yield f"its answer is that of a run with {len(said)} of {call.job.inputs['steps']} steps"
        spans = sorted((steps[0].at_s, steps[-1].at_s) for steps in done.values())
        for (_, last_s), (first_s, _) in itertools.pairwise(spans):
            if last_s > first_s + LATE_S and not self._goes_on(last_s):
                yield f"two runs at once, for {last_s - first_s:.1f} s"
        if call.ended_s is not None and not call.lost and spans:
            late_s = max(last_s for _, last_s in spans) - call.ended_s
            if late_s > LATE_S and not self._goes_on(call.ended_s + late_s):
                yield f"a side effect {late_s:.1f} s after the end; {call.outcomes}"

    def _goes_on(self, at_s: float, pool: str = "") -> bool:
        """Whether a job may have gone on until then (at this pool) although another run had begun, or it had ended."""
        found = self._timeline.touching(GOES_ON, at_s, at_s, STOPS_S)
        return any(entry.target in (pool or entry.target, "broker") for entry in found)

    def figures(self) -> dict[str, Any]:
        """Counts for the report."""
        calls = list(self.calls.values())
        answered = [call for call in calls if call.outcomes]
        known = [call for call in answered if call.outcomes[0].get("usage") is not None]
        lm = {call.job.call: self._requests.count(call.job.call) for call in calls}
        return {
            "jobs": len(calls),
            "by_kind": _sorted(Counter(call.job.kind for call in calls)),
            "by_client": _sorted(Counter(call.client for call in calls)),
            "ends": _sorted(Counter("(client killed)" if call.lost else call.end for call in calls)),
            "longest_answer_s": round(max((_lasted(c) for c in answered if c.end == "OK"), default=0.0), 1),
            "longest_end_s": round(max(map(_lasted, answered), default=0.0), 1),
            "slowest": [
                f"{call.job.call} {call.job.kind} {_lasted(call):.1f} s at {call.began_s - self._timeline.began_s:.1f}"
                for call in sorted(answered, key=_lasted)[: -SLOWEST - 1 : -1]
            ],
            "attempts": _sorted(Counter(str(attempt) for call in answered if (attempt := _attempt(call)))),
            "lm_jobs": sum(bool(seen.requests) for seen in lm.values()),
            "lm_requests": sum(seen.requests for seen in lm.values()),
            "lm_requests_extra": self._extra_requests(),
            "attempts_that_may_be_lost": self._timeline.lost_attempts(),
            "run_again_by_brokers": len(self._run_again_by_brokers()),
            "lm_requests_closed": sum(seen.disconnects for seen in lm.values()),
            "usage_jobs": len(known),
            "usage_output_tokens": sum(_output_tokens(call.outcomes[0]["usage"]) for call in known),
            "lm_output_tokens_of_those": sum(lm[call.job.call].tokens for call in known),
            "runs_with_side_effects": sum(len(runs) for runs in self._effects.values()),
            "side_effects": sum(len(steps) for runs in self._effects.values() for steps in runs.values()),
        }


def _of_content(call: Call) -> Iterator[str]:
    """The right answer, and a stream that says the same."""
    if call.end != "OK":
        return
    expected = call.job.outputs or {}
    wrong = {name for name, value in expected.items() if call.outputs.get(name) != value}
    if wrong:
        yield f"wrong {', '.join(wrong)}: {str(call.outputs)[:300]} is not {str(expected)[:300]}"
    for name, text in (call.text or {}).items():
        answer = call.outputs.get(name, "")
        # Who reads a window stops reading at the end.
        if text != answer and not (call.job.window and answer.startswith(text)):
            yield f"its stream is not its answer: {text!r} {answer!r}"


def _of_usage(call: Call, usage: Mapping[str, Any], seen: JobStats) -> Iterator[str]:
    """What the job's end says of its use is what the LM counted, of one run or of all."""
    calls, tokens = usage.get("calls", 0), _output_tokens(usage)
    # A call that was stopped before it had its connection is one, too.
    if calls > seen.requests + (call.end != "OK") or tokens > seen.tokens:
        yield f"more usage than the LM counted: {calls} calls of {seen.requests}, {tokens} tokens of {seen.tokens}"
    if call.end == "OK" and seen.requests == 1 and (calls, tokens) != (1, seen.tokens):
        yield f"{calls} calls, {tokens} tokens, where the LM counted {seen.requests} and {seen.tokens}"


def _output_tokens(usage: Mapping[str, Any]) -> int:
    return sum(model.get("output_tokens", 0) for model in usage.get("models", {}).values())


def _attempt(call: Call) -> int | None:
    """The attempt that ended it, where its client was told."""
    return call.outcomes[0].get("attempt") if call.outcomes else None


def _lasted(call: Call) -> float:
    return (call.ended_s or call.began_s) - call.began_s


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def check_events(lives: Iterable[Sequence[tuple[str, Mapping[str, Any]]]], calls: Mapping[str, Call]) -> Iterator[str]:
    """What a broker tells of its jobs, life by life: one end for each, nothing after it, attempts that count up.

    Jobs whose id is their call's name ended at the client as the broker said.
    """
    for events in lives:
        attempts: dict[str, int] = {}
        done: dict[str, Mapping[str, Any]] = {}
        for kind, details in events:
            job = details.get("job", "")
            if not kind.startswith("job."):
                continue
            if job in done:
                yield f"{job}: {kind} after its end: {details} after {done[job]}"
            elif kind == "job.dispatched":
                if details["attempt"] <= attempts.get(job, 0):
                    yield f"{job}: attempt {details['attempt']} after {attempts[job]}"
                attempts[job] = details["attempt"]
            elif kind == "job.done":
                done[job] = details
        for job, details in done.items():
            call = calls.get(job)
            end = details["code"] if details["code"] == "OK" else f"{details['code']} {details['reason']}"
            if call is not None and call.outcomes and call.life == 1 and end not in ENDS[call.job.kind]:
                yield f"{job}: the broker ended it as {end}, its client was told {call.end}"
