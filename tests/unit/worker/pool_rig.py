"""A pool's core with everything around it played by the test: executors, broker and time."""

from typing import Any, TypeVar

from dspymq.protocol import Limits, body
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Error, Ping, Pong, Request, Welcome
from dspymq.worker.supervisor import effects as ef
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor.context import PoolSettings
from dspymq.worker.supervisor.core import PoolCore

T = TypeVar("T")

WELCOME = Welcome(
    epoch="e", session="s", ping_ms=1_000, dead_ms=3_000, adopt_ms=5_000, orphan_ms=60_000, retain_ms=60_000,
    limits=Limits(),
)  # fmt: skip


class Rig:
    """`effects` of the last event, `sent` to the broker and `told` to executors since the beginning."""

    def __init__(self, **settings: Any) -> None:
        self.settings = PoolSettings(**{"worker": "worker-1", "name": "pool", "processes": 2, **settings})
        self.core = PoolCore(self.settings, lambda: 1.0)
        self.now_ms = 1_000_000
        self.effects: list[ef.Effect] = []
        self.history: list[ef.Effect] = []
        self.slots_of = {"default": 4}

    # -- playing ----------------------------------------------------------------------------------------------------

    def do(self, event: ev.Event) -> list[ef.Effect]:
        self.effects = self.core.handle(event, self.now_ms)
        self.history += self.effects
        return self.effects

    def running(self, *, sync: bool = True) -> "Rig":
        """A pool whose executors are ready, in a session that is synced."""
        self.do(ev.Start())
        for number in range(1, self.settings.processes + 1):
            self.ready(f"pool/{number}")
        self.do(ev.SessionUp(WELCOME))
        if sync:
            self.broker(w.Synced())
        return self

    def ready(self, executor: str, pid: int = 0) -> None:
        self.do(ev.ExecutorStarted(executor, pid or 100 + int(executor.split("/")[1])))
        message = w.Ready(
            worker=executor,
            slots=self.slots_of,
            programs=[w.Offer(name="p", revision="r")],
            profiles=["default"],
        )
        self.do(ev.FromExecutor(executor, message, body.encode(programs=[{"name": "p"}])))

    def broker(self, message: Any, payload: bytes = b"") -> list[ef.Effect]:
        return self.do(ev.FromBroker(message, payload))

    def executor(self, executor: str, message: Any, payload: bytes = b"") -> list[ef.Effect]:
        return self.do(ev.FromExecutor(executor, message, payload))

    def gone(self, executor: str, code: int | None = -9) -> list[ef.Effect]:
        return self.do(ev.ExecutorGone(executor, code))

    def beat(self, *executors: str) -> None:
        for executor in executors:
            self.executor(executor, Ping(n=1))

    def dispatch(self, lease: str, **fields: Any) -> str:
        """Dispatch; returns the executor that got it, "" if none did."""
        message = w.Dispatch(
            **{
                "lease": lease, "ns": "a", "job": f"job-{lease}", "attempt": 1, "digest": "d" * 32, "program": "p",
                "revision": "r", "timeout_ms": 60_000, **fields,
            }
        )  # fmt: skip
        self.broker(message, b"inputs")
        return next((e.executor for e in self.effects if isinstance(e, ef.ToExecutor)), "")

    def start_job(self, lease: str, **fields: Any) -> str:
        """Dispatch, and have it started."""
        executor = self.dispatch(lease, **fields)
        self.started(executor, lease)
        return executor

    def started(self, executor: str, lease: str) -> None:
        self.executor(executor, w.Started(lease=lease, attempt=1, revision="r", worker=executor))

    def chunk(self, executor: str, lease: str, seq: int, *, reset: bool = False) -> list[ef.Effect]:
        return self.executor(executor, w.Chunk(lease=lease, attempt=1, seq=seq, reset=reset), b"text")

    def finish(self, executor: str, lease: str, payload: bytes = b"out", **fields: Any) -> list[ef.Effect]:
        result = w.Result(**{"lease": lease, "attempt": 1, "code": "OK", **fields})
        return self.executor(executor, result, payload)

    def wait(self, ms: int, *, beating: tuple[str, ...] = (), step_ms: int = 500) -> list[ef.Effect]:
        """Let time pass, with ticks when the core wants them and beats of the named executors."""
        end = self.now_ms + ms
        seen: list[ef.Effect] = []
        while self.now_ms < end:
            due = self.core.next_ms()
            self.now_ms = min(end, self.now_ms + step_ms, max(due or end, self.now_ms + 1))
            for executor in beating:
                self.beat(executor)
                seen += self.effects
            self.do(ev.Tick())
            seen += self.effects
        self.effects = seen
        return seen

    def session_again(self) -> None:
        self.do(ev.SessionDown())
        self.do(ev.SessionUp(WELCOME))

    def pong(self) -> None:
        """The broker answers the last ping."""
        pings = [e.message.n for e in self.history if isinstance(e, ef.ToBroker) and isinstance(e.message, Ping)]
        self.broker(Pong(n=pings[-1]))

    # -- looking ----------------------------------------------------------------------------------------------------

    def sent(self, kind: type[T]) -> list[T]:
        """What the last event sent to the broker, of this kind."""
        return [e.message for e in self.effects if isinstance(e, ef.ToBroker) and isinstance(e.message, kind)]

    def told(self, kind: type[T]) -> list[tuple[str, T]]:
        """What the last event sent to executors, of this kind."""
        return [
            (e.executor, e.message)
            for e in self.effects
            if isinstance(e, ef.ToExecutor) and isinstance(e.message, kind)
        ]

    def starts(self) -> list[str]:
        return [e.executor for e in self.effects if isinstance(e, ef.StartExecutor)]

    def kills(self) -> list[str]:
        return [e.executor for e in self.effects if isinstance(e, ef.KillExecutor)]

    def exits(self) -> list[int]:
        return [e.code for e in self.effects if isinstance(e, ef.Exit)]

    def logs(self) -> list[str]:
        return [e.text for e in self.history if isinstance(e, ef.Log)]

    def last_ready(self) -> w.Ready:
        return [e.message for e in self.history if isinstance(e, ef.ToBroker) and isinstance(e.message, w.Ready)][-1]

    def shown(self) -> dict[str, dict[str, Any]]:
        """The executors of the last `ready`, by id."""
        bodies = [e.body for e in self.history if isinstance(e, ef.ToBroker) and isinstance(e.message, w.Ready)]
        return {entry["id"]: entry for entry in body.decode(bodies[-1])["executors"]}

    def resync(self, keep: list[str] | None = None) -> list[w.Held]:
        """A new session; every page is answered. Returns all that was reported; `keep` None keeps everything."""
        self.session_again()
        held: list[w.Held] = []
        while True:
            page = self.sent(w.Ready)[-1]
            assert page.held is not None
            held += page.held
            reported = [entry.lease for entry in page.held]
            self.broker(w.Synced(keep=reported if keep is None else [lease for lease in reported if lease in keep]))
            if not page.more:
                return held


def error(reason: str, message: str = "why", rid: str | None = None) -> Error:
    return Error(code="FAILED_PRECONDITION", reason=reason, message=message, rid=rid)


__all__ = ["WELCOME", "Request", "Rig", "error"]
