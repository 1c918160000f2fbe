"""The demo: `python examples/demo.py`, or `make demo`, which also sets everything up.

It starts a broker and a pool of workers as separate processes, calls DSPy programs in them, and kills one of them in
the middle of its work. Without further ado it runs on the small embedded model; on another one with DSPYMQ_LM_MODEL.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dspymq import AsyncJob, DspymqError, Prediction
from dspymq.worker.local.install import status

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.demo_processes import Demo, running
from examples.demo_texts import PARAGRAPH, REVIEWS, STORY

PROCESSES = 2
CONCURRENCY = 4
AT_ONCE = 20

out = Console(highlight=False, markup=False, soft_wrap=True)


class Tally:
    """How many calls were made, and which of them were not answered."""

    def __init__(self) -> None:
        self.calls = 0
        self.failures: list[str] = []

    async def outcome(self, job: AsyncJob) -> Prediction | None:
        """The answer of a job; None, and a note, if it ended with an error."""
        self.calls += 1
        try:
            return await job.result()
        except DspymqError as error:
            self.failures.append(f"{job.program}: {error}")
            out.print(f"  no answer: {error}", style="red")
            return None


async def main() -> int:
    """Run it all; 0 if every call was answered."""
    is_embedded = not os.environ.get("DSPYMQ_LM_MODEL")
    if is_embedded and (fix := status().fix):
        out.print(f"The embedded model cannot be used: {fix}")
        out.print("Or name another one: DSPYMQ_LM_MODEL=openai/gpt-4o-mini OPENAI_API_KEY=... python examples/demo.py")
        return 2
    environ = {**os.environ, "DSPYMQ_LM_MODEL": os.environ.get("DSPYMQ_LM_MODEL") or "local"}
    tally = Tally()
    headline("A broker and a pool of workers, each a process of its own")
    began = time.monotonic()
    async with running("examples.programs", environ, PROCESSES, CONCURRENCY) as demo:
        await introduce(demo, environ["DSPYMQ_LM_MODEL"], time.monotonic() - began)
        await inline_signature(demo, tally)
        await chain_of_thought(demo, tally)
        await extraction(demo, tally)
        await stream(demo, tally)
        await many_at_once(demo, tally)
        await kill_in_the_middle(demo, tally)
    return finish(tally, is_embedded=is_embedded)


async def introduce(demo: Demo, model: str, seconds: float) -> None:
    """Who is there."""
    out.print(f"  broker   clients at {demo.addresses['clients']}, pid {demo.addresses['pid']}")
    pids = ", ".join(str(pid) for pid in (await demo.pids()).values())
    out.print(f"  pool     pid {demo.worker_pid}, which runs no program itself; its executors: pid {pids}")
    if model == "local":
        out.print("  model    SmolLM2 with 135M parameters, on this machine: for trying out the machinery. It is not")
        out.print("           clever; name a real one with DSPYMQ_LM_MODEL=openai/gpt-4o-mini OPENAI_API_KEY=...")
    else:
        out.print(f"  model    {model}")
    out.print(f"  ready after {seconds:.1f} s", style="dim")


async def inline_signature(demo: Demo, tally: Tally) -> None:
    """A program that exists nowhere but in the call."""
    headline('An inline signature: "question -> answer"')
    question = "What is the capital of France?"
    out.print(f"  question: {question}")
    job = demo.client.submit("question -> answer", {"question": question}, watch=["started"])
    await show(demo, tally, job)


async def chain_of_thought(demo: Demo, tally: Tally) -> None:
    """A program of examples/programs.py that reasons first."""
    headline("A chain of thought: the program `qa` of examples/programs.py")
    question = "What is the largest planet of our solar system?"
    out.print(f"  question: {question}")
    await show(demo, tally, demo.client.submit("qa", {"question": question}, watch=["started"]))


async def extraction(demo: Demo, tally: Tally) -> None:
    """Outputs with types: an int, a list, one of four words."""
    headline("A typed extraction: the program `person` (an int, a list, one of four words)")
    out.print(f"  text: {PARAGRAPH}")
    prediction = await show(demo, tally, demo.client.submit("person", {"text": PARAGRAPH}, watch=["started"]))
    if prediction is not None:
        kinds = ", ".join(f"{name} is a {type(value).__name__}" for name, value in prediction.outputs.items())
        out.print(f"  {kinds}", style="dim")


async def stream(demo: Demo, tally: Tally) -> None:
    """Text as it is written."""
    headline("A stream, shown as it comes")
    out.print(f"  instruction: {STORY}")
    job = demo.client.submit("instruction -> response", {"instruction": STORY}, stream=True, watch=["started"])
    began = time.monotonic()
    times: list[float] = []
    out.print("  ", end="")
    with contextlib.suppress(DspymqError):
        async for chunk in job:
            times.append(time.monotonic() - began)
            out.print(chunk.text, end="")
    out.print()
    prediction = await tally.outcome(job)
    if prediction is not None and times:
        note = f"{len(times)} pieces, the first after {times[0]:.2f} s, the last after {times[-1]:.2f} s"
        out.print(f"  {note}; {who(job, await demo.pids())}", style="dim")


async def many_at_once(demo: Demo, tally: Tally) -> None:
    """Twenty jobs, eight slots."""
    headline(f"{AT_ONCE} calls at once, over {PROCESSES} processes with {CONCURRENCY} slots each")
    began = time.monotonic()
    jobs = [demo.client.submit("sentiment", {"review": review}, watch=["started"]) for review in REVIEWS[:AT_ONCE]]
    with progress(len(jobs)) as advance:
        for job in jobs:
            job.add_done_callback(advance)
        answers = [await tally.outcome(job) for job in jobs]
    seconds = time.monotonic() - began
    counts = collections.Counter(answer["sentiment"] for answer in answers if answer is not None)
    out.print(f"  {', '.join(f'{count} {word}' for word, count in sorted(counts.items()))}")
    out.print(f"  {seconds:.2f} s for all of them; {shares(jobs, await demo.pids())}", style="dim")


async def kill_in_the_middle(demo: Demo, tally: Tally) -> None:
    """SIGKILL to a process whose request is open at the LM."""
    headline("An executor is killed while the model is answering it")
    began = time.monotonic()
    watched = demo.client.submit("instruction -> response", {"instruction": STORY}, stream=True, watch=["started"])
    jobs = [demo.client.submit("sentiment", {"review": review}, watch=["started"]) for review in REVIEWS[:6]]
    text = ""
    with contextlib.suppress(DspymqError):
        async for chunk in watched:
            text += chunk.text
            if text:
                break
    before = await demo.pids()
    victim = before.get(watched.worker or "")
    if victim is None or watched.done():
        tally.failures.append("the executor could not be caught in the middle of its work")
        out.print(f"  {tally.failures[-1]}", style="red")
        return
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    out.print(f"  pid {victim} was answering job {watched.id[-8:]}; the first words had arrived: {text!r}")
    out.print(f"  kill -KILL {victim}", style="bold")
    answers = [await tally.outcome(job) for job in (watched, *jobs)]
    ready = await demo.wait_ready(PROCESSES)
    new = [one["pid"] for one in ready if one["pid"] not in before.values()]
    for job, answer in zip((watched, *jobs), answers, strict=True):
        if answer is not None:
            times = f"attempt {answer.attempt}" + (", run again" if answer.attempt > 1 else "")
            out.print(f"  job {job.id[-8:]} {job.program:<24} {times}")
    answered = sum(answer is not None for answer in answers)
    out.print(
        f"  {answered} of {len(answers)} answered, {time.monotonic() - killed:.2f} s after the kill; "
        f"a new process has its place: pid {', '.join(map(str, new)) or '?'}"
    )
    out.print(f"  {time.monotonic() - began:.2f} s in all", style="dim")
    if answers[0] is not None and answers[0].attempt < 2:
        tally.failures.append("the job of the killed executor was not run again")


def finish(tally: Tally, *, is_embedded: bool) -> int:
    """What came of it, and where to go on."""
    headline("That was it")
    if tally.failures:
        for failure, count in collections.Counter(tally.failures).items():
            times = f" ({count} times)" if count > 1 else ""
            out.print(f"  failed{times}: {failure}", style="red")
        return 1
    out.print(f"  {tally.calls} calls, {tally.calls} answers. Broker and pool are stopped.", style="green")
    out.print("  Next:")
    out.print("    dspymq up examples.programs        the same two processes, to play with")
    out.print('    dspymq call sentiment review="..."')
    out.print("    examples/programs.py, examples/call_from_python.py, README.md")
    if is_embedded:
        out.print("    DSPYMQ_LM_MODEL=openai/gpt-4o-mini OPENAI_API_KEY=... dspymq up examples.programs")
    return 0


def headline(text: str) -> None:
    """The title of a part."""
    out.print(f"\n{text}", style="bold")


async def show(demo: Demo, tally: Tally, job: AsyncJob) -> Prediction | None:
    """Wait for a job and print its outputs, as they are, and who ran it."""
    prediction = await tally.outcome(job)
    if prediction is not None:
        for name, value in prediction.outputs.items():
            out.print(f"  {name}: {value}")
        out.print(f"  {who(job, await demo.pids())}{timings(prediction)}", style="dim")
    return prediction


def who(job: AsyncJob, pids: Mapping[str, int]) -> str:
    """Which process ran it."""
    return f"run by pid {pids.get(job.worker or '', '?')}, attempt {job.attempt}"


def timings(prediction: Prediction) -> str:
    """How long, and how much of it at the model."""
    found = prediction.timings
    if found is None or found.run_ms is None:
        return ""
    at_model = f", {found.lm_ms} ms of it at the model" if found.lm_ms is not None else ""
    return f", {found.run_ms} ms{at_model}"


def shares(jobs: list[AsyncJob], pids: Mapping[str, int]) -> str:
    """How many each process ran."""
    counts = collections.Counter(pids.get(job.worker or "", "?") for job in jobs)
    return ", ".join(f"{count} by pid {pid}" for pid, count in counts.most_common())


@contextlib.contextmanager
def progress(total: int) -> Iterator[Any]:
    """A bar where a terminal looks, a line every few calls otherwise. Gives a function to call after each."""
    if not out.is_terminal:
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            if done % 5 == 0 or done == total:
                out.print(f"  {done} of {total} answered")

        yield count
        return
    columns = (TextColumn(" "), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
