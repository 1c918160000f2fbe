"""A client core on a bench: a clock that is set by hand, and the outputs of each step at hand."""

from typing import Any, TypeVar

import msgspec

from dspymq import events as ev
from dspymq.core import ClientCore, CoreConfig
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as cm
from dspymq.protocol import messages as m
from dspymq.protocol.limits import Limits

T = TypeVar("T")

EPOCH_1 = "epoch-1"
EPOCH_2 = "epoch-2"


def welcome(epoch: str = EPOCH_1, session: str = "s1", **changes: Any) -> m.Welcome:
    fields: dict[str, Any] = {
        "epoch": epoch,
        "session": session,
        "ping_ms": 10_000,
        "dead_ms": 30_000,
        "adopt_ms": 5_000,
        "orphan_ms": 60_000,
        "retain_ms": 600_000,
        "limits": Limits(),
    }
    return m.Welcome(**{**fields, **changes})


class Bench:
    """`outputs` are those of the last step, `all` those of every step."""

    def __init__(self, *, random: float = 0.0, **config: Any) -> None:
        config.setdefault("addresses", ["tcp://a:1"])
        self.now_ms = 1_000
        self.core = ClientCore(CoreConfig(**config), lambda: random)
        self.outputs: list[ev.Output] = []
        self.all: list[ev.Output] = []

    def feed(self, event: ev.Input) -> list[ev.Output]:
        self.outputs = self.core.handle(event, self.now_ms)
        self.all += self.outputs
        self.check()
        return self.outputs

    def check(self) -> None:
        """Every wait has an end, and what has ended waits for nothing."""
        timers = self.core._timers
        named = {key for key in timers._at if isinstance(key, tuple)}
        open_jobs, open_requests = set(self.core.jobs._jobs), set(self.core.requests._open)
        assert {name for kind, name in named if kind in ("job", "retry")} <= open_jobs
        assert {("job", job) for job in open_jobs} <= named
        assert {name for kind, name in named if kind == "request"} == open_requests

    def receive(self, message: cm.Message, **body: Any) -> list[ev.Output]:
        return self.feed(ev.Received(message, bodies.encode(**body) if body else b""))

    def submit(self, job: str = "j1", timeout_ms: int = 60_000, *, body: bytes = b"b", **fields: Any) -> None:
        resume = fields.pop("resume", False)
        message = cm.Submit(job=job, program="qa", timeout_ms=timeout_ms, **fields)
        self.feed(ev.OpenJob(message, body, timeout_ms, resume))

    def live(self, epoch: str = EPOCH_1, session: str = "s1", **changes: Any) -> None:
        """Greet: the core must have said hello."""
        self.receive(welcome(epoch, session, **changes))

    def result(self, job: str = "j1", *, outputs: Any = None, **fields: Any) -> list[ev.Output]:
        fields = {"attempt": 1, "code": "OK", **fields}
        body = {"outputs": outputs or {"answer": "x"}} if fields["code"] == "OK" else {}
        return self.receive(cm.Result(job=job, **fields), **body)

    def refuse(self, code: str, reason: str, **fields: Any) -> list[ev.Output]:
        return self.receive(m.Error(code=code, reason=reason, **fields))

    def no_session(self, **fields: Any) -> list[ev.Output]:
        return self.refuse("FAILED_PRECONDITION", "no_session", retryable=True, **fields)

    def chunk(self, seq: int, text: str = "", *, job: str = "j1", attempt: int = 1, reset: bool = False) -> None:
        fields = {"answer": text} if text else {}
        self.receive(cm.Chunk(job=job, attempt=attempt, seq=seq, reset=reset), fields=fields)

    def pass_ms(self, ms: int) -> list[ev.Output]:
        """Let time pass, waking the core whenever it wants; the outputs of all those ticks."""
        end_ms = self.now_ms + ms
        collected: list[ev.Output] = []
        while (wake := self.core.wake_at_ms()) is not None and wake <= end_ms:
            self.now_ms = max(self.now_ms, wake)
            collected += self.feed(ev.Tick())
        self.now_ms = end_ms
        self.outputs = collected
        return collected

    def sleep_ms(self, ms: int) -> list[ev.Output]:
        """The process stands still, then ticks once."""
        self.now_ms += ms
        return self.feed(ev.Tick())

    # Looking at outputs.

    def of(self, kind: type[T]) -> list[T]:
        return [output for output in self.outputs if isinstance(output, kind)]

    def sent(self, kind: type[T]) -> list[T]:
        return [output.message for output in self.of(ev.Send) if isinstance(output.message, kind)]

    def sent_names(self) -> list[str]:
        return [str(output.message.__struct_config__.tag) for output in self.of(ev.Send)]

    def connects(self) -> list[str]:
        return [output.address for output in self.of(ev.Connect)]

    def ends(self) -> dict[str, Any]:
        return {output.job: output.value for output in self.of(ev.JobEnded)}

    def text(self) -> list[tuple[str, str, bool]]:
        return [(c.field, c.text, c.reset) for output in self.of(ev.JobText) for c in output.chunks]


def live_bench(**config: Any) -> Bench:
    """A bench with a session and nothing open."""
    bench = Bench(**config)
    bench.feed(ev.PingBroker("warm", 1_000))
    bench.live()
    bench.receive(m.Pong(n=1))
    return bench


def without_timeout(message: cm.Submit) -> cm.Submit:
    return msgspec.structs.replace(message, timeout_ms=1)
