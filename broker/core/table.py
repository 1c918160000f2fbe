"""The life of a job, as one literal table (SPEC section 5; a test holds the two against each other).

Everything that decides a job's state lives in TABLE: for each event and state the action that `jobs.JobMachine`
performs. A message under a lease that is not current never gets here: it is counted and dropped (a late result is
acknowledged, so that its worker forgets it). GONE is a tombstone: only key and digest are left.
"""

import enum
from typing import Final, cast

from dspymq.protocol import client_messages as c


class State(enum.Enum):
    """Where a job is."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    GONE = "gone"

    @property
    def wire(self) -> c.JobState:
        """The state as `accepted` names it."""
        return cast(c.JobState, self.value)


class JobEvent(enum.Enum):
    """What can happen to a job."""

    SUBMIT_SAME = "submit, same digest"
    SUBMIT_OTHER = "submit, other digest"
    SLOT_FREE = "slot free"
    STARTED = "started (or implied)"
    OUTPUT = "chunk, progress, tool_call"
    RESULT = "result"
    RELEASED_UNSTARTED = "released, not started"
    RELEASED_STARTED = "released, started"
    WORKER_LOST = "worker lost"
    NEVER_RECEIVED = "lease absent from held"
    HELD = "held under another broker's lease"
    CANCEL = "cancel"
    DEADLINE = "deadline"
    GRACE_OVER = "grace over"
    OWNER_GONE = "owner gone"
    ACK = "ack"
    RETENTION_OVER = "retention over"


class Action(enum.Enum):
    """What the job machine then does; each is a method of its own name."""

    ATTACH = "attach"
    CONFLICT = "conflict"
    REPLAY = "replay"
    REFUSE_GONE = "refuse_gone"
    DISPATCH = "dispatch"
    RUN = "run"
    RUN_AND_RELAY = "run_and_relay"
    RELAY = "relay"
    FINISH = "finish"
    FINISH_CANCELLING = "finish_cancelling"
    REFUND = "refund"
    REFUND_STARTED = "refund_started"
    RECOVER = "recover"
    ADOPT = "adopt"
    END = "end"
    END_CANCELLED = "end_cancelled"
    END_EXPIRED = "end_expired"
    STOP = "stop"
    STOP_EXPIRED = "stop_expired"
    STOP_AGAIN = "stop_again"
    END_FENCED = "end_fenced"
    ABANDON = "abandon"
    FORGET = "forget"
    NOT_FOUND = "not_found"
    IGNORE = "ignore"
    IMPOSSIBLE = "impossible"


_Q, _D, _R, _C, _DONE, _GONE = State
_A = Action

TABLE: Final[dict[JobEvent, dict[State, Action]]] = {
    JobEvent.SUBMIT_SAME: {
        _Q: _A.ATTACH,
        _D: _A.ATTACH,
        _R: _A.ATTACH,
        _C: _A.ATTACH,
        _DONE: _A.REPLAY,
        _GONE: _A.REFUSE_GONE,
    },
    JobEvent.SUBMIT_OTHER: {
        _Q: _A.CONFLICT,
        _D: _A.CONFLICT,
        _R: _A.CONFLICT,
        _C: _A.CONFLICT,
        _DONE: _A.CONFLICT,
        _GONE: _A.CONFLICT,
    },
    JobEvent.SLOT_FREE: {
        _Q: _A.DISPATCH,
        _D: _A.IMPOSSIBLE,
        _R: _A.IMPOSSIBLE,
        _C: _A.IMPOSSIBLE,
        _DONE: _A.IMPOSSIBLE,
        _GONE: _A.IMPOSSIBLE,
    },
    JobEvent.STARTED: {
        _Q: _A.IMPOSSIBLE,
        _D: _A.RUN,
        _R: _A.IGNORE,
        _C: _A.IGNORE,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.OUTPUT: {
        _Q: _A.IMPOSSIBLE,
        _D: _A.RUN_AND_RELAY,
        _R: _A.RELAY,
        _C: _A.IGNORE,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.RESULT: {
        _Q: _A.IMPOSSIBLE,
        _D: _A.FINISH,
        _R: _A.FINISH,
        _C: _A.FINISH_CANCELLING,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.RELEASED_UNSTARTED: {
        _Q: _A.IMPOSSIBLE,
        _D: _A.REFUND,
        _R: _A.REFUND_STARTED,
        _C: _A.END,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.RELEASED_STARTED: {
        _Q: _A.IMPOSSIBLE,
        _D: _A.RECOVER,
        _R: _A.RECOVER,
        _C: _A.END,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.WORKER_LOST: {
        _Q: _A.IMPOSSIBLE,
        _D: _A.RECOVER,
        _R: _A.RECOVER,
        _C: _A.END,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.NEVER_RECEIVED: {
        _Q: _A.IMPOSSIBLE,
        _D: _A.REFUND,
        _R: _A.RECOVER,
        _C: _A.END,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.HELD: {
        _Q: _A.ADOPT,
        _D: _A.ADOPT,
        _R: _A.ADOPT,
        _C: _A.IGNORE,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.CANCEL: {
        _Q: _A.END_CANCELLED,
        _D: _A.STOP,
        _R: _A.STOP,
        _C: _A.STOP_AGAIN,
        _DONE: _A.REPLAY,
        _GONE: _A.NOT_FOUND,
    },
    JobEvent.DEADLINE: {
        _Q: _A.END_EXPIRED,
        _D: _A.STOP_EXPIRED,
        _R: _A.STOP_EXPIRED,
        _C: _A.IGNORE,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.GRACE_OVER: {
        _Q: _A.IMPOSSIBLE,
        _D: _A.IMPOSSIBLE,
        _R: _A.IMPOSSIBLE,
        _C: _A.END_FENCED,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.OWNER_GONE: {
        _Q: _A.ABANDON,
        _D: _A.ABANDON,
        _R: _A.ABANDON,
        _C: _A.IGNORE,
        _DONE: _A.IGNORE,
        _GONE: _A.IGNORE,
    },
    JobEvent.ACK: {
        _Q: _A.IGNORE,
        _D: _A.IGNORE,
        _R: _A.IGNORE,
        _C: _A.IGNORE,
        _DONE: _A.FORGET,
        _GONE: _A.IGNORE,
    },
    JobEvent.RETENTION_OVER: {
        _Q: _A.IMPOSSIBLE,
        _D: _A.IMPOSSIBLE,
        _R: _A.IMPOSSIBLE,
        _C: _A.IMPOSSIBLE,
        _DONE: _A.FORGET,
        _GONE: _A.IGNORE,
    },
}

LIVE: Final = frozenset({State.QUEUED, State.DISPATCHED, State.RUNNING, State.CANCELLING})
"""States in which a job still owes its one result."""

LEASED: Final = frozenset({State.DISPATCHED, State.RUNNING, State.CANCELLING})
"""States in which a lease is current."""
