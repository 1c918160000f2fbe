"""What can happen to a pool: the inputs of `PoolCore.handle`."""

from typing import Any, NamedTuple

from dspymq.protocol.messages import Welcome
from dspymq.worker.supervisor.executor import Memory as Sizes


class Start(NamedTuple):
    """Start the executors."""


class Tick(NamedTuple):
    """Time passed; at the latest when `PoolCore.next_ms` says so."""


class SessionUp(NamedTuple):
    """A broker welcomed this pool."""

    welcome: Welcome


class SessionDown(NamedTuple):
    """The session is over; what was sent last may not have arrived."""


class Congested(NamedTuple):
    """The broker's socket takes nothing more for now (True), or again (False)."""

    blocked: bool


class OwnStall(NamedTuple):
    """The supervisor itself was stopped longer than a broker waits: nothing that comes in now may be started."""


class FromBroker(NamedTuple):
    """A decoded message of the broker (worker_messages.FromBroker)."""

    message: Any
    body: bytes = b""


class FromExecutor(NamedTuple):
    """A decoded message of an executor (worker_messages.FromWorker)."""

    executor: str
    message: Any
    body: bytes = b""


class ExecutorStarted(NamedTuple):
    """The process of an executor exists."""

    executor: str
    pid: int


class ExecutorGone(NamedTuple):
    """The process ended and its pipe was read to the end. `exit_code` is negative for a signal, None if unknown."""

    executor: str
    exit_code: int | None
    last_words: str = ""
    """What it, or its fork server, wrote last on stderr while the programs were imported."""


class Memory(NamedTuple):
    """The memory of executors was measured."""

    sizes: dict[str, Sizes]


class Reload(NamedTuple):
    """The programs are to be imported anew; `why` is for the log."""

    why: str


class LocalLmAnswer(NamedTuple):
    """The address of the embedded LM for the executor that asked, or why there is none."""

    executor: str
    rid: str
    url: str | None
    problem: str = ""


class Shutdown(NamedTuple):
    """Finish or give back what is held within the pool's grace, then exit."""


class StopNow(NamedTuple):
    """Exit at once."""


Event = (
    Start
    | Tick
    | SessionUp
    | SessionDown
    | Congested
    | OwnStall
    | FromBroker
    | FromExecutor
    | ExecutorStarted
    | ExecutorGone
    | LocalLmAnswer
    | Memory
    | Reload
    | Shutdown
    | StopNow
)
