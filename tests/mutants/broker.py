"""Guards of the broker's core, removed one by one."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MODEL = "tests/unit/broker/test_core_model.py"
CIRCUITS = "tests/unit/broker/test_circuits.py"

BROKER = {
    "a fenced result ends its job": Mutant(
        "broker/core/worker_side.py",
        "elif lease.current:\n            self._machine.result(lease, message, body)",
        "elif True:\n            self._machine.result(lease, message, body)",
        "tests/unit/broker",
    ),
    "slots are not counted": Mutant(
        "broker/core/workers.py", "self.used[lease.lane] = self.used.get(lease.lane, 0) + 1", "pass", MODEL
    ),
    "a worker's leases are not requeued when it is lost": Mutant(
        "broker/core/worker_side.py", "self._machine.worker_lost(lease)", "pass", MODEL
    ),
    "a lease absent from held is kept": Mutant(
        "broker/core/worker_side.py", "self._machine.never_received(lease)", "pass", MODEL
    ),
    "one bad job, tried again, opens a circuit for all": Mutant(
        "broker/core/circuits.py", "circuit.failed.add(job.digest)", "circuit.failed.add(job.job_id.encode())", CIRCUITS
    ),
    "what a provider did opens a program's circuit": Mutant(
        "broker/core/circuits.py", "elif message.code in OWN_FAILURES and not message.retryable:", "else:", CIRCUITS
    ),
    "everybody is let through at the end of an open circuit": Mutant(
        "broker/core/circuits.py", "if left_ms <= 0 and circuit.trial in (None, job):", "if left_ms <= 0:", CIRCUITS
    ),
    "a trial that tells nothing keeps its place": Mutant(
        "broker/core/circuits.py",
        "if circuit is not None and circuit.trial is job:\n                circuit.trial = None",
        "if False:\n                pass",
        CIRCUITS,
    ),
    "all that an open circuit refuses is refused at once": Mutant(
        "broker/core/jobs.py", "if ended == REFUSED_AT_ONCE:", "if False:", CIRCUITS
    ),
    "tombstones are not bounded": Mutant(
        "broker/core/store.py",
        "while len(self.tombstones) > self._max_tombstones:",
        "while False:",
        "tests/unit/broker",
    ),
    "retained results are not bounded": Mutant(
        "broker/core/store.py", "while self.done_bytes > self._retain_bytes and self.done:", "while False:", MODEL
    ),
    "a queued job does not expire": Mutant(
        "broker/core/jobs.py",
        "if action is Action.END_EXPIRED:\n            self.dequeue(job)",
        "if False:\n            self.dequeue(job)",
        MODEL,
    ),
    "a cancelled job stays queued": Mutant(
        "broker/core/jobs.py",
        "if action is Action.END_CANCELLED:\n            self.dequeue(job)",
        "if action is Action.END_CANCELLED:\n            pass",
        MODEL,
    ),
    "grace has no end": Mutant("broker/core/jobs.py", "self._grace_over(job)", "pass", MODEL),
    "another content under the same id attaches": Mutant(
        "broker/core/client_side.py",
        "if action is Action.CONFLICT:\n            raise self._refusal(action)",
        "if False:\n            raise self._refusal(action)",
        MODEL,
    ),
    "an ack forgets a job that is not finished": Mutant(
        "broker/core/client_side.py",
        "if self._machine.action(job, JobEvent.ACK) is Action.FORGET:",
        "if True:",
        MODEL,
    ),
    "a tombstone does not stop a second run": Mutant(
        "broker/core/client_side.py", "if tombstone is not None:", "if False:", MODEL
    ),
    "dispatch before synced": Mutant(
        "broker/core/workers.py",
        "if not self.synced or self.draining or self.unsettled_bytes > MAX_UNSETTLED_BYTES:",
        "if False:",
        "tests/unit/broker",
    ),
    "attempts are not bounded": Mutant(
        "broker/core/jobs.py",
        "elif not job.submit.redeliver or job.charged >= self._settings.max_attempts:",
        "elif not job.submit.redeliver:",
        "tests/unit/broker",
    ),
    "redeliver false is ignored": Mutant(
        "broker/core/jobs.py",
        "elif not job.submit.redeliver or job.charged >= self._settings.max_attempts:",
        "elif job.charged >= self._settings.max_attempts:",
        "tests/unit/broker",
    ),
    "anybody may cancel": Mutant(
        "broker/core/client_side.py",
        'if job.client is not session:\n            raise ProtocolError("not_attached"',
        'if False:\n            raise ProtocolError("not_attached"',
        "tests/unit/broker",
    ),
}
