"""Which jobs there are: live ones, finished ones whose result is kept, and tombstones. All of it bounded.

A finished job is kept, with its inputs so that it can be retried, until its client acknowledges the result, or
`retain_ms` is over, or newer results need the room (`retain_bytes`). After that a tombstone (key and digest) stands
for it, so that a late resend is refused instead of run again; of those the oldest go first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator

from dspymq.broker.core.job import Job, JobKey, size_of
from dspymq.protocol import client_messages as c

DIGEST_BYTES = 16

KEPT_BYTES = 1_500
"""What a finished job takes beside its bodies: else results without a body would be kept without a bound."""


def digest_of(submit: c.Submit, body: bytes) -> bytes:
    """What names a job's content (SPEC section 5.2): SHA-256 over program, revision, profile and body, cut to 16 bytes.

    Each part is preceded by its length as 8 bytes, big-endian; an absent part counts as empty.
    """
    names = (submit.program.encode(), (submit.revision or "").encode(), (submit.profile or "").encode())
    prefix = b"".join([len(name).to_bytes(8, "big") + name for name in names])
    digest = hashlib.sha256(prefix + len(body).to_bytes(8, "big"))
    digest.update(body)
    return digest.digest()[:DIGEST_BYTES]


class JobStore:
    """Jobs by key."""

    def __init__(self, *, retain_bytes: int, tombstones: int) -> None:
        self.jobs: dict[JobKey, Job] = {}
        self.live = 0
        self.live_bytes = 0
        self.done: OrderedDict[JobKey, Job] = OrderedDict()
        self.done_bytes = 0
        self.tombstones: OrderedDict[JobKey, bytes] = OrderedDict()
        self._retain_bytes = retain_bytes
        self._max_tombstones = tombstones

    def add(self, job: Job) -> None:
        """A new job."""
        self.jobs[job.key] = job
        self.live += 1
        self.live_bytes += job.size

    def resize(self, job: Job) -> None:
        """A live job has got its inputs."""
        self.live_bytes -= job.size
        job.size = size_of(job.submit, job.body)
        self.live_bytes += job.size

    def keep_inputs(self, job: Job, body: bytes) -> None:
        """The inputs of a finished job have come, so that it can be retried."""
        job.body = body
        job.size += len(body)
        self.done_bytes += len(body)

    def settle(self, job: Job) -> None:
        """The job has its result now."""
        self.live -= 1
        self.live_bytes -= job.size
        self.done[job.key] = job
        details = job.result.details if job.result is not None else None
        job.size += len(job.result_body) + KEPT_BYTES + (len(str(details)) if details else 0)
        self.done_bytes += job.size

    def forget(self, job: Job) -> None:
        """A finished job becomes a tombstone."""
        del self.jobs[job.key]
        del self.done[job.key]
        self.done_bytes -= job.size
        self.tombstones[job.key] = job.digest
        while len(self.tombstones) > self._max_tombstones:
            self.tombstones.popitem(last=False)

    def vanish(self, job: Job) -> None:
        """A live job that no client of this broker asked for is gone without a trace."""
        del self.jobs[job.key]
        self.live -= 1
        self.live_bytes -= job.size

    def over_budget(self) -> Iterator[Job]:
        """Finished jobs to forget, oldest first, until what is kept fits into its budget."""
        while self.done_bytes > self._retain_bytes and self.done:
            yield next(iter(self.done.values()))
