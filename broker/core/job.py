"""A job and its lease, as the broker keeps them: slotted, since there may be hundreds of thousands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspymq.broker.core.table import State
from dspymq.protocol import client_messages as c
from dspymq.protocol.errors import Code
from dspymq.protocol.messages import Usage

if TYPE_CHECKING:
    from dspymq.broker.core.scheduler import Flow, NeedQueue
    from dspymq.broker.core.sessions import ClientSession
    from dspymq.broker.core.workers import Worker

JobKey = tuple[str, str]
"""(principal, job id)."""


class End:
    """Why a job is being stopped, or how it ended: a code with its reason and words."""

    __slots__ = ("code", "message", "reason", "retry_after_ms")

    def __init__(self, code: Code, reason: str, message: str, retry_after_ms: int | None = None) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after_ms = retry_after_ms


CANCELLED = End(Code.CANCELLED, "cancelled", "cancelled by its client")
CLIENT_GONE = End(Code.CANCELLED, "client_gone", "its client went away and on_disconnect was `cancel`")
EXPIRED = End(Code.DEADLINE_EXCEEDED, "deadline", "timeout_ms passed")
WORKER_LOST = End(Code.UNAVAILABLE, "worker_lost", "workers were lost and the attempts are used up")
UNKNOWN_PROGRAM = End(Code.NOT_FOUND, "unknown_program", "no worker ever offered this program")
NO_WORKER = End(Code.UNAVAILABLE, "no_worker", "no worker can run this now, and fail_fast was asked for")
POISON = End(Code.ABORTED, "poison", "this job ended two processes that ran it alone")


class Lease:
    """One attempt of a job on one worker. It holds a slot from dispatch until it is settled or its worker is lost."""

    __slots__ = ("attempt", "flow", "job", "lane", "lease", "revision", "size", "worker")

    def __init__(self, lease: str, job: Job, attempt: int, worker: Worker, lane: str, revision: str) -> None:
        self.lease = lease
        self.job = job
        self.attempt = attempt
        self.worker = worker
        self.lane = lane
        self.revision = revision
        self.size = job.size
        self.flow = job.flow
        """Whose slot it takes: the job may become another's while a fenced lease still has one."""

    @property
    def current(self) -> bool:
        """Whether the job still waits for this lease; if not, it is fenced."""
        return self.job.lease is self


class Job:
    """One job. `submit` is replaced on re-attachment (want, window, on_disconnect); the body goes at the end."""

    __slots__ = (
        "adopt_until_ms",
        "attempt",
        "avoid",
        "body",
        "charged",
        "client",
        "convictions",
        "created_ms",
        "deadline_ms",
        "digest",
        "end",
        "flow",
        "given_back",
        "inputs_known",
        "is_followed",
        "isolate",
        "key",
        "late_usage",
        "lease",
        "prefer",
        "queue",
        "queued_ms",
        "queued_since_ms",
        "refunds",
        "result",
        "result_body",
        "seq",
        "size",
        "state",
        "submit",
    )

    def __init__(
        self, key: JobKey, submit: c.Submit, body: bytes, digest: bytes, flow: Flow, seq: int, now_ms: int
    ) -> None:
        self.key = key
        self.submit = submit
        self.body = body
        self.digest = digest
        self.flow = flow
        self.seq = seq
        self.size = size_of(submit, body)
        """Bytes that it counts in the store's budget."""
        self.state = State.QUEUED
        self.deadline_ms = now_ms + submit.timeout_ms
        self.created_ms = now_ms
        self.queued_since_ms = now_ms
        self.queued_ms = 0
        self.adopt_until_ms = 0
        """Until then a worker may report that it runs this job for an earlier broker: it is not begun again."""
        self.attempt = 0
        self.charged = 0
        self.refunds = 0
        self.convictions = 0
        self.prefer: str | None = None
        """The revision of an earlier attempt: the next one stays there while a worker has it."""
        self.avoid: frozenset[tuple[str, int]] = frozenset()
        """Workers that gave it back, each until its next `ready` (see `Need`)."""
        self.given_back: frozenset[str] = frozenset()
        """Leases that were released: a worker that does not know that it was heard reports them again."""
        self.isolate = False
        self.is_followed = False
        """An attempt was lost: the operator reads what becomes of it."""
        self.inputs_known = True
        """False while the job is known only from a worker that holds it, until a submit brings its inputs."""
        self.lease: Lease | None = None
        self.client: ClientSession | None = None
        self.end: End | None = None
        """Set when the job is being stopped: what its result will say."""
        self.queue: NeedQueue | None = None
        self.late_usage: Usage | None = None
        """What a fenced attempt said it had used, after the job had ended or gone on elsewhere."""
        self.result: c.Result | None = None
        self.result_body = b""

    @property
    def job_id(self) -> str:
        """The id its client gave it."""
        return self.key[1]


def size_of(submit: c.Submit, body: bytes) -> int:
    """What a job weighs: its body, and the part of its header that can be large."""
    if submit.trace is None:
        return len(body)
    return len(body) + sum(len(key) + len(value) for key, value in submit.trace.items())
