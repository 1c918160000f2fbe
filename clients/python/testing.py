"""A broker in memory, for the tests of code that uses a client: no socket, no worker, no LM.

    broker = FakeBroker()

    @broker.program("qa")
    def qa(question):
        return {"answer": f"You asked {question}"}

    with Client(transport=broker.transport()) as client:
        assert client.call("qa", question="why?").answer == "You asked why?"

A program is a function of its inputs that returns its outputs, a generator that yields pieces of text ({field: text})
and returns its outputs, or a coroutine function. A DspymqError that it raises is the job's error. The fake keeps jobs
and results as a broker does, can be stopped, restarted and cut off, and shows what it received; it has no queue, no
retries and checks no inputs. It lives on the event loop of the clients that use it: give each test its own.
"""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from dspymq import exceptions
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as cm
from dspymq.protocol import messages as m
from dspymq.protocol.codec import client_codec, encode
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.ids import new_uuid7
from dspymq.protocol.limits import Limits

Program: TypeAlias = Callable[..., Any]
P = TypeVar("P", bound=Program)
Answer = tuple[cm.FromBroker, bytes]
Intercept = Callable[[cm.Message, bytes], Sequence[Answer] | None]


class MemoryTransport:
    """The Transport to a FakeBroker, whatever the address."""

    def __init__(self, broker: "FakeBroker") -> None:
        self._broker = broker

    def connect(
        self, address: str, on_frames: Callable[[Sequence[bytes]], None], on_down: Callable[[str], None]
    ) -> "MemoryLink":
        """See dspymq.link.Transport."""
        return MemoryLink(self._broker, address, on_frames, on_down)

    async def aclose(self) -> None:
        """See dspymq.link.Transport."""


class MemoryLink:
    """A Link that hands frames over on the event loop."""

    def __init__(
        self,
        broker: "FakeBroker",
        address: str,
        on_frames: Callable[[Sequence[bytes]], None],
        on_down: Callable[[str], None],
    ) -> None:
        self.address = address
        self.open = True
        self._broker = broker
        self._on_frames = on_frames
        self._on_down = on_down
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(broker.link_opened, self)

    def send(self, frames: Sequence[bytes]) -> None:
        """See dspymq.link.Link."""
        if self.open:
            self._loop.call_soon(self._broker.link_received, self, list(frames))

    def close(self, linger_ms: int = 0) -> None:
        """See dspymq.link.Link."""
        self.open = False
        # What was sent before still arrives.
        self._loop.call_soon(self._broker.link_closed, self)

    def deliver(self, frames: Sequence[bytes]) -> None:
        """Hand a message to the client."""
        if self.open:
            self._loop.call_soon(self._deliver, list(frames))

    def down(self, reason: str) -> None:
        """Tell the client that the connection is gone."""
        if self.open:
            self._on_down(reason)

    def _deliver(self, frames: Sequence[bytes]) -> None:
        if self.open:
            self._on_frames(frames)


class FakeBroker:
    """See the module. `addresses`, if given, are the only ones at which it answers."""

    def __init__(
        self,
        programs: dict[str, Program] | None = None,
        *,
        addresses: Sequence[str] | None = None,
        limits: Limits | None = None,
        ping_ms: int = 10_000,
        dead_ms: int = 30_000,
    ) -> None:
        self.programs: dict[str, Program] = dict(programs or {})
        self.addresses = addresses
        self.epoch = new_uuid7()
        self.received: list[cm.Message] = []
        """All messages that came, in order."""
        self.intercept: Intercept | None = None
        """Sees each message first; the answers it returns ([] for none) replace the fake's own, None lets it go."""
        self.running = True
        self._limits = limits or Limits()
        self._ping_ms = ping_ms
        self._dead_ms = dead_ms
        self._codec = client_codec(self._limits)
        self._links: dict[MemoryLink, bool] = {}
        self._results: dict[str, Answer] = {}
        self._attached: dict[str, MemoryLink] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def transport(self) -> MemoryTransport:
        """What a client is given as `transport`."""
        return MemoryTransport(self)

    def program(self, name: str) -> Callable[[P], P]:
        """Decorator: offer this function under the name."""

        def offer(program: P) -> P:
            self.programs[name] = program
            return program

        return offer

    def stop(self) -> None:
        """Go away, with all jobs, as a killed broker does."""
        self.running = False
        self._forget()
        self.cut()

    def start(self) -> None:
        """Come back, as another epoch."""
        self.running = True
        self.epoch = new_uuid7()

    def restart(self) -> None:
        """`stop` and `start`."""
        self.stop()
        self.start()

    def forget_sessions(self) -> None:
        """Restart unnoticed: connections stay, sessions and jobs are gone, the epoch is another."""
        self._forget()
        self.epoch = new_uuid7()
        for link in self._links:
            self._links[link] = False

    def cut(self) -> None:
        """Break every connection."""
        links, self._links = self._links, {}
        for link in links:
            link.down("connection lost")

    def push(self, message: cm.FromBroker, body: bytes = b"") -> None:
        """Send this to every session."""
        for link, greeted in self._links.items():
            if greeted:
                link.deliver(encode(message, body))

    def seen(self, kind: type[m.Header]) -> list[Any]:
        """The messages of this type that came."""
        return [message for message in self.received if type(message) is kind]

    # What links tell.

    def link_opened(self, link: MemoryLink) -> None:
        """A client connects."""
        if not self.running or (self.addresses is not None and link.address not in self.addresses):
            link.down("connection refused")
        elif link.open:
            self._links[link] = False

    def link_closed(self, link: MemoryLink) -> None:
        """A client is gone."""
        self._links.pop(link, None)

    def link_received(self, link: MemoryLink, frames: Sequence[bytes]) -> None:
        """A message came."""
        if link not in self._links:
            return
        try:
            message, body = self._codec.decode(frames)
            self.received.append(message)
            answers = self.intercept(message, body) if self.intercept else None
            if answers is None:
                answers = self._answer(link, message, body)
        except ProtocolError as problem:
            answers = [(m.error_answer(problem), b"")]
        for answer, answer_body in answers:
            if isinstance(answer, m.Welcome):
                self._links[link] = True
            link.deliver(encode(answer, answer_body))

    def welcome(self) -> m.Welcome:
        """The welcome it gives."""
        return m.Welcome(
            epoch=self.epoch,
            session=new_uuid7(),
            ping_ms=self._ping_ms,
            dead_ms=self._dead_ms,
            adopt_ms=5_000,
            orphan_ms=60_000,
            retain_ms=600_000,
            limits=self._limits,
        )

    def _forget(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        for kept in (self._tasks, self._results, self._attached):
            kept.clear()

    def _answer(self, link: MemoryLink, message: cm.Message, body: bytes) -> Sequence[Answer]:
        if isinstance(message, m.Hello):
            return [(self.welcome(), b"")]
        if isinstance(message, m.Pong | m.Bye | m.Error):
            return []
        if not self._links[link]:
            raise _named(ProtocolError("no_session", "say hello first"), message)
        if isinstance(message, m.Ping):
            return [(m.Pong(n=message.n), b"")]
        if isinstance(message, m.Request):
            return self._request(message)
        if isinstance(message, cm.Submit | cm.Attach):
            return self._job(link, message, body)
        if isinstance(message, cm.Cancel):
            task = self._tasks.get(message.job)
            if task is not None:
                task.cancel()
        elif isinstance(message, cm.Ack):
            for job in message.jobs:
                self._results.pop(job, None)
        return []

    def _request(self, message: m.Request) -> Sequence[Answer]:
        results: dict[str, Any] = {
            "programs.list": {"programs": [{"name": name} for name in sorted(self.programs)]},
            "workers.list": {"workers": []},
            "stats.get": {"epoch": self.epoch},
        }
        if message.method not in results:
            text = f"no method {message.method!r}"
            raise _named(ProtocolError("unknown_method", text, details={"methods": sorted(results)}), message)
        return [(m.Reply(rid=message.rid), bodies.encode(result=results[message.method]))]

    def _job(self, link: MemoryLink, message: cm.Submit | cm.Attach, body: bytes) -> Sequence[Answer]:
        job = message.job
        self._attached[job] = link
        if job in self._results:
            return [self._results[job]]
        if job in self._tasks:
            return []
        program = self.programs.get(message.program) if isinstance(message, cm.Submit) else None
        if program is None:
            reason = "unknown_program" if isinstance(message, cm.Submit) else "unknown_job"
            raise _named(ProtocolError(reason, f"nothing is known of {job}"), message)
        inputs = bodies.part(body, "inputs")
        self._tasks[job] = asyncio.get_running_loop().create_task(self._run(job, program, inputs, list(message.want)))
        return []

    async def _run(self, job: str, program: Program, inputs: dict[str, Any], want: list[Any]) -> None:
        chunks = 0
        try:
            made = program(**inputs)
            if inspect.isawaitable(made):
                made = await made
            while inspect.isgenerator(made):
                try:
                    fields = next(made)
                except StopIteration as end:
                    made = end.value
                    break
                if "chunks" in want:
                    self._tell(job, cm.Chunk(job=job, attempt=1, seq=chunks), bodies.encode(fields=fields))
                    chunks += 1
            result = cm.Result(job=job, attempt=1, code="OK", chunks=chunks, revision="fake")
            answer: Answer = (result, bodies.encode(outputs=dict(made)))
        except asyncio.CancelledError:
            if self._tasks.get(job) is not asyncio.current_task():
                return
            answer = (cm.Result(job=job, attempt=1, code="CANCELLED", reason="cancelled", chunks=chunks), b"")
        except exceptions.DspymqError as error:
            answer = (_failed(job, error, chunks), b"")
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            answer = (_failed(job, exceptions.ProgramError(text, reason="program_error"), chunks), b"")
        del self._tasks[job]
        self._results[job] = answer
        self._tell(job, *answer)

    def _tell(self, job: str, message: cm.FromBroker, body: bytes) -> None:
        link = self._attached.get(job)
        if link is not None and self._links.get(link):
            link.deliver(encode(message, body))


def _failed(job: str, error: exceptions.DspymqError, chunks: int) -> cm.Result:
    return cm.Result(
        job=job,
        attempt=1,
        code=error.code,
        reason=error.reason or None,
        message=error.message,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
        details=error.details or None,
        chunks=chunks,
    )


def _named(problem: ProtocolError, message: Any) -> ProtocolError:
    problem.job = getattr(message, "job", None)
    problem.rid = getattr(message, "rid", None)
    return problem
