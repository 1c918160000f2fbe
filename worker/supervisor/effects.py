"""What a pool does: the outputs of `PoolCore.handle`, for the shell to carry out in order."""

from typing import NamedTuple

from dspymq.protocol.messages import Header


class ToBroker(NamedTuple):
    """Send in the session that is up."""

    message: Header
    body: bytes = b""


class ToExecutor(NamedTuple):
    """Send on an executor's pipe; one that is gone is no error."""

    executor: str
    message: Header
    body: bytes = b""


class StartExecutor(NamedTuple):
    """Start a process: from the fork server, or by spawn. It is answered by ExecutorStarted or ExecutorGone."""

    executor: str
    spawn: bool
    generation: int = 1
    """Which import of the programs it has: each has a fork server of its own."""


class EndGeneration(NamedTuple):
    """Its fork server is needed no more."""

    generation: int


class KillExecutor(NamedTuple):
    """SIGKILL; answered by ExecutorGone."""

    executor: str


class AskLocalLm(NamedTuple):
    """Start the embedded LM if it does not run; answered by LocalLmAnswer. `again`: its last address did not answer."""

    executor: str
    rid: str
    again: bool = False


class Log(NamedTuple):
    """One line for the operator; `level` is one of the logging module's numbers."""

    level: int
    text: str


class Exit(NamedTuple):
    """The pool ends with this exit code; the shell stops what still runs."""

    code: int


Effect = ToBroker | ToExecutor | StartExecutor | KillExecutor | EndGeneration | AskLocalLm | Log | Exit
