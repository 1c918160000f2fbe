"""A broker, and pools on both sides of a line that can be broken; for tests/faults/test_network.py and its like."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from dspymq import Client
from dspymq.job import Job
from tests.faults.network import Proxy
from tests.faults.system import PATIENCE_S, PROGRAMS, System
from tests.lm import ScriptedLM, expected_answer
from tests.processes import RunningBroker, RunningPool, running_broker, running_pool, wait_until

OTHERS = "tests.faults.network_programs"
QUICK = {"DSPYMQ_BROKER_WORKER_PING_MS": "300", "DSPYMQ_BROKER_CLIENT_PING_MS": "300"}
DEAD_S = 0.9
NOTICED_S = 0.8
"""A loaded machine may be so much later than `dead_ms`."""
FAR_SLOTS = 4


@dataclasses.dataclass
class Net:
    """A broker, the pool of its `system` and one more beside it, and a pool `far` behind `line`."""

    lm: ScriptedLM
    system: System
    far: RunningPool
    line: Proxy

    @property
    def broker(self) -> RunningBroker:
        return self.system.broker

    @property
    def watcher(self) -> Client:
        return self.system.client

    def settle(self) -> None:
        """Mend the line, let everything end, and wait until all is as it was."""
        self.line.heal()
        self.lm.release()
        wait_until(lambda: self.watcher.stats()["jobs"]["live"] == 0, PATIENCE_S, "the end of every job")
        wait_until(lambda: self.watcher.stats()["slots"]["default"]["used"] == 0, PATIENCE_S, "free slots")
        self.far.wait_ready(1)

    def requests(self, names: Sequence[str]) -> list[int]:
        """How often each job was at the LM."""
        return [self.lm.job(name).requests for name in names]


@contextlib.contextmanager
def running_net() -> Iterator[Net]:
    """Run one while the block runs."""
    with (
        ScriptedLM() as lm,
        running_broker(environ=QUICK) as broker,
        Proxy(broker.workers) as line,
        running_pool(broker, targets=[PROGRAMS], lm=lm, concurrency=24, name="near", wait=False) as near,
        # Nothing but the same module makes the same revision.
        running_pool(
            broker, targets=[f"{OTHERS}:shared"], lm=lm, concurrency=3 * FAR_SLOTS, name="beside", wait=False
        ) as beside,
        running_pool(at(broker, line), targets=[OTHERS], lm=lm, concurrency=FAR_SLOTS, name="far", wait=False) as far,
        Client(broker.clients, name="watcher") as watcher,
    ):
        for pool in (near, beside, far):
            pool.wait_ready(1)
        yield Net(lm, System(broker, near, lm, watcher), far, line)


def at(broker: RunningBroker, line: Proxy) -> RunningBroker:
    """The broker, as a pool behind the line sees it."""
    return RunningBroker(broker.process, {"clients": broker.clients, "workers": line.address})


@contextlib.contextmanager
def cut(line: Proxy, how: str) -> Iterator[None]:
    """Nothing passes `up`, `down`, `both`, or nobody is there any more, while the block runs."""
    match how:
        case "away":
            line.go_away()
        case "both":
            line.hold()
        case _:
            line.hold(getattr(line, how))
    try:
        yield
    finally:
        line.heal()
        if how == "away":
            line.come_back()


def hang(client: Client, program: str, names: Sequence[str], timeout_s: float = 60.0) -> list[Job]:
    """A call for each name, which hangs at the LM."""
    return [client.submit(program, {"question": f"#job={name} #hang"}, timeout_s=timeout_s) for name in names]


def text_of(job: Job) -> str:
    """All that its stream said, when it is over."""
    text = ""
    for chunk in job:
        text = chunk.text if chunk.reset else text + chunk.text
    return text


def check_stream(job: Job, question: str, words: int) -> int:
    """Stream, result and what the LM said agree; the attempt."""
    text, result = text_of(job), job.result(PATIENCE_S)
    assert text == result.answer == expected_answer("answer", question, tokens=words)
    return int(result.attempt)


def streams(client: Client, program: str, names: Sequence[str], words: int, token_ms: int) -> list[tuple[Job, str]]:
    """A stream for each name, and its question."""
    found = []
    for name in names:
        question = f"#job={name} tell"
        script = f"{question} #tokens={words} #chunk=12 #token_ms={token_ms}"
        found.append((client.submit(program, {"question": script}, stream=True, timeout_s=60), question))
    return found


def is_at(pool: RunningPool, job: Job) -> bool:
    """Whether this pool runs it."""
    return job.worker in [one["id"] for one in pool.executors()]
