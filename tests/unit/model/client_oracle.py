"""What must hold at the clients' edge: order, streams, results that do not change, ends that have a reason."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from dspymq.exceptions import ClientClosed, DspymqError
from dspymq.prediction import Prediction
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol.messages import Error
from tests.unit.model.ledger import Ledger
from tests.unit.model.world import World

if TYPE_CHECKING:
    from tests.unit.model.client_host import ClientHost, Handle


ORPHAN_MS: Final = 2_500
RETAIN_MS: Final = 4_000
"""The brokers' `orphan_ms` and `retain_ms`."""


class Reader:
    """Puts a job's chunks together by the letter of SPEC R-9.7 and R-9.8, within one session."""

    def __init__(self) -> None:
        self.attempt = 0
        self.next_seq = 0
        self.whole = False
        """Nothing is missing since the beginning of the attempt, or the last reset."""
        self.text: dict[str, str] = {}
        self.chunks = 0

    def take(self, chunk: c.Chunk, fields: dict[str, str]) -> str:
        """What is wrong with this chunk, or nothing."""
        first = chunk.attempt != self.attempt
        if chunk.attempt < self.attempt:
            return "an attempt that was over goes on"
        if not first and chunk.seq < self.next_seq:
            return "a number comes again"
        if not first and chunk.seq > self.next_seq and not chunk.reset:
            return "chunks are missing, and no reset says so"
        if first:
            self.attempt = chunk.attempt
            self.whole = chunk.seq == 0
            self.text = {}
        if chunk.reset:
            self.whole = True
            self.text = {}
        self.next_seq = chunk.seq + 1
        self.chunks += 1
        for name, text in fields.items():
            self.text[name] = self.text.get(name, "") + text
        return ""


class ClientOracle:
    """Of all clients."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self._world = world
        self._ledger = ledger
        self.cancelled: set[str] = set()
        """Jobs that a user wanted cancelled."""
        self.left: set[str] = set()
        """Jobs whose client went away."""
        self.taken: set[str] = set()
        """Jobs that more than one client attached to."""
        self.redone: set[str] = set()
        """Jobs of processes that crashed, submitted again."""
        self._results: dict[tuple[str, str], tuple[c.Result, bytes]] = {}
        self._epochs: dict[str, str] = {}
        self._readers: dict[str, dict[str, Reader]] = defaultdict(dict)
        self._silent: dict[str, set[str]] = defaultdict(set)
        """By client: jobs that had their result in this session."""
        self._unaccepted: dict[str, set[str]] = defaultdict(set)
        self._sent: dict[str, set[str]] = defaultdict(set)
        self._again: dict[str, set[str]] = defaultdict(set)
        self._to_ack: dict[str, set[str]] = defaultdict(set)

    def new_process(self, client: str) -> None:
        """A client's process began."""
        self._to_ack[client] = set()

    def session(self, client: str, epoch: str) -> None:
        """A session began."""
        if self._epochs.get(client) != epoch:
            self._to_ack[client] = set()
        self._epochs[client] = epoch
        self._readers[client] = {}
        self._silent[client] = set()
        self._unaccepted[client] = set()
        self._again[client] = set()

    def connects(self, client: str) -> None:
        """A new socket: nothing comes any more that was on its way to the one before."""
        self._sent[client] = set()

    # -- messages ---------------------------------------------------------------------------------------------------

    def sends(self, client: ClientHost, message: Any) -> None:
        """A client says something."""
        name = client.name
        if isinstance(message, c.Submit | c.Attach):
            client.handles[message.job].was_sent = True
            if message.job in self._sent[name]:
                # What an earlier attachment was sent may still come, also from an earlier connection of this socket:
                # ZeroMQ reads from the pipes of all in turn.
                self._again[name].add(message.job)
                self._unaccepted[name].discard(message.job)
            elif "accepted" in message.want or isinstance(message, c.Attach):
                self._unaccepted[name].add(message.job)
            self._sent[name].add(message.job)
            self._readers[name].pop(message.job, None)
        elif isinstance(message, c.Cancel):
            # Its user's, or its own when it gives up.
            self.cancelled.add(message.job)
        elif isinstance(message, c.Ack):
            for job in message.jobs:
                self._world.check(job in self._to_ack[name], f"{name} acknowledges what it does not have", job)
                self._world.check(job not in client.handles, f"{name} acknowledges what its user does not have", job)

    def receives(self, client: ClientHost, message: Any, body: bytes) -> None:
        """A broker says something."""
        job = getattr(message, "job", None)
        if job is None:
            return
        name, world = client.name, self._world
        if isinstance(message, Error):
            self._unaccepted[name].discard(job)
            return
        if isinstance(message, c.Accepted):
            self._unaccepted[name].discard(job)
        world.check(job not in self._unaccepted[name], "accepted comes first", message)
        if isinstance(message, c.Result):
            known = self._results.setdefault((self._epochs[name], job), (message, body))
            world.check(known == (message, body), "a result never changes", known, message)
            self._silent[name].add(job)
            self._to_ack[name].add(job)
            self._compare(name, message, body)
        else:
            silent = job in self._silent[name] and job not in self._again[name]
            world.check(not silent, "nothing comes after the result", message)
        if isinstance(message, c.Chunk):
            reader = self._readers[name].setdefault(job, Reader())
            if message.attempt < reader.attempt and job in self._ledger.stepped_back:
                return
            problem = reader.take(message, bodies.part(body, "fields"))
            world.check(not problem, f"{problem}: {job} at {name}", message)

    def _compare(self, client: str, result: c.Result, body: bytes) -> None:
        """Text that came without a gap is the text of the result."""
        reader = self._readers[client].get(result.job)
        if reader is None or reader.attempt != result.attempt:
            return
        if result.usage is not None:
            # A worker's word; a broker that ends a job by itself does not count chunks.
            fewer = reader.next_seq <= result.chunks
            self._world.check(fewer, "more chunks came than there are", result, reader.next_seq)
        if result.code == "OK" and reader.whole and reader.next_seq == result.chunks:
            text = bodies.part(body, "outputs")["text"]
            self._world.check(reader.text == {"text": text}, "the chunks make the text", reader.text, text)

    # -- ends -------------------------------------------------------------------------------------------------------

    def ended(self, client: ClientHost, handle: Handle, value: Prediction | DspymqError) -> None:
        """A user has the end of a job."""
        if isinstance(value, Prediction):
            self._ended_well(handle, value)
        elif not isinstance(value, ClientClosed):
            problem = self._no_reason(handle, value)
            self._world.check(not problem, f"{handle.job} ended as {value.reason}: {problem}", value)

    def _ended_well(self, handle: Handle, value: Prediction) -> None:
        world, job = self._world, handle.job
        lease = value.outputs["run"][0]
        known = [call.lease for call in self._ledger.calls[job]]
        world.check(lease in known, f"{job} has a result of another's", lease, known)
        world.check(value.outputs["text"] == self._ledger.texts[lease], f"{job} has another text", value)
        world.check(value.usage is not None and value.usage.calls == 1, f"{job} says what it used", value)
        if handle.wants_text and handle.text:
            whole = handle.text == {"text": value.outputs["text"]}
            world.check(whole, f"the text of {job} that its reader has is that of the result", handle.text, value)

    def _no_reason(self, handle: Handle, value: DspymqError) -> str:
        job, reason = handle.job, value.reason
        attached = isinstance(handle.opened.message, c.Attach)
        reasons = {
            "cancelled": job in self.cancelled,
            "client_gone": job in self.left or job in self.taken or handle.alone_ms >= ORPHAN_MS - 100,
            "deadline": self._world.now_ms >= handle.due_ms or attached or job in self.redone,
            "broker_unreachable": not handle.was_sent and self._world.now_ms >= handle.due_ms,
            "superseded": job in self.taken or job in self.redone,
            "poison": self._ledger.executors_ended(job) >= 2,
            "program_error": handle.plan.end == "fail",
            "invalid_inputs": handle.plan.end == "invalid",
            "worker_lost": True,
            "unknown_job": attached,
            "adopting": attached,
            "not_attached": attached and handle.cancelled,
            "result_gone": attached or job in self.taken | self.redone or handle.alone_ms >= RETAIN_MS - 100,
        }
        if reason not in reasons:
            return "no reason that can be"
        return "" if reasons[reason] else "but nothing of that kind happened"
