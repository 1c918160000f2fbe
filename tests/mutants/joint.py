"""What broker, pool and client promise each other: guards whose absence the model of everything can show."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MODEL = "tests/unit/model"
# The model finds these as well, but only now and then within the time that a mutant is given.
BROKER, POOL, CLIENT = "tests/unit/broker", "tests/unit/worker", "tests/unit/client"

JOINT = {
    "a client forgets which broker it told before": Mutant(
        "clients/python/jobs.py",
        "known_epoch = job.other_epoch or job.last_epoch",
        "known_epoch = job.last_epoch",
        CLIENT,
    ),
    "a job of an earlier broker runs again at once": Mutant(
        "broker/core/jobs.py", "if now_ms < job.adopt_until_ms:", "if False:", BROKER
    ),
    "a lease that was given back is adopted": Mutant(
        "broker/core/adoption.py", " or held.lease in job.given_back:", ":", MODEL
    ),
    "a smaller lease is adopted over a greater one": Mutant(
        "broker/core/adoption.py", "return job.lease is None or held.lease > job.lease.lease", "return True", BROKER
    ),
    "the slot of a fenced lease is another flow's": Mutant(
        "broker/core/jobs.py",
        "self._scheduler.gave_slot(lease.flow)\n        self._scheduler.release_flow(lease.flow)",
        "self._scheduler.gave_slot(lease.job.flow)\n        self._scheduler.release_flow(lease.job.flow)",
        BROKER,
    ),
    "a fenced attempt is not told to stop": Mutant(
        "broker/core/jobs.py",
        'self._context.to_worker(lease.worker.session, w.Cancel(lease=lease.lease, cause="fenced", grace_ms=0))',
        "pass",
        BROKER,
    ),
    "an adopted attempt takes no slot": Mutant(
        "broker/core/adoption.py", "self._scheduler.took_slot(job.flow)", "pass", MODEL
    ),
    "the broker judges silence after its own stall": Mutant(
        "broker/core/core.py", "session.heard_ms = now_ms\n        self.workers", "pass\n        self.workers", BROKER
    ),
    "isolate is forgotten": Mutant("broker/core/jobs.py", "job.isolate = True", "pass", MODEL),
    "convictions are not counted": Mutant("broker/core/jobs.py", "job.convictions += 1", "pass", MODEL),
    "a worker that gave a job back gets it again at once": Mutant(
        "broker/core/jobs.py", "if avoids:", "if False:", MODEL
    ),
    "a fenced lease is reported to the next broker": Mutant(
        "worker/supervisor/core.py", "self._work.forget_fenced()", "pass", POOL
    ),
    "what was cut off for long is started": Mutant(
        "worker/supervisor/session.py", "if self.phase is Phase.UP and silent_ms > self.stall_ms:", "if False:", POOL
    ),
    "a pool forgets its results when it has sent them": Mutant(
        "worker/supervisor/work.py",
        "        self._context.to_broker(lease.end, lease.end_body)",
        "        self._context.to_broker(lease.end, lease.end_body)\n        self.leases.pop(lease.id, None)",
        MODEL,
    ),
    "a pool does not go on with streams after a new session": Mutant(
        "worker/supervisor/work.py", "if lease.want & STREAMED:", "if False:", POOL
    ),
    "a pool runs on what the broker dropped": Mutant(
        "worker/supervisor/work.py",
        'self.cancel(lease.id, "fenced", self._context.settings.cancel_grace_ms)',
        "pass",
        POOL,
    ),
    "an isolated job shares its process": Mutant(
        "worker/supervisor/work.py", "elif message.isolate:", "elif False:", MODEL
    ),
    "an executor's end blames nobody": Mutant(
        "worker/supervisor/work.py",
        'if has_started and cause != "drain":',
        "if False:",
        POOL,
    ),
    "a client runs a tool call that comes twice": Mutant(
        "clients/python/tool_calls.py", "return known.answer or Came.RUNNING", "return known.answer or Came.NEW", MODEL
    ),
    "a client does not rejoin its streams": Mutant(
        "clients/python/jobs.py", "            job.stream.rejoin(anew=anew)", "            pass", MODEL
    ),
    "a client does not acknowledge": Mutant("clients/python/jobs.py", "self._acks.append(message.job)", "pass", CLIENT),
    "a client sends open jobs once only": Mutant(
        "clients/python/jobs.py",
        "            if not job.waits_retry:\n                self._send(job, now_ms)",
        "            if not job.waits_retry and not job.reached:\n                self._send(job, now_ms)",
        CLIENT,
    ),
    "a stream takes chunks of an earlier attempt": Mutant(
        "clients/python/chunks.py",
        "(message.attempt, message.seq) < (self.attempt, self.next_seq):",
        "message.seq < 0:",
        CLIENT,
    ),
    "a gap in a stream is not mended": Mutant("clients/python/chunks.py", "self._broken = True", "pass", CLIENT),
}
