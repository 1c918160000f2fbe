"""The exit codes of `dspymq`, one a class of outcome. They are an interface: numbers never change their meaning."""

import enum
from typing import Final


class ExitCode(enum.IntEnum):
    """What the shell gets; `MEANINGS` says it for people."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    DEADLINE = 5
    UNAVAILABLE = 6
    PROGRAM = 7
    LM = 8
    LIMIT = 9
    CANCELLED = 10
    STATE = 11
    DENIED = 12
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "done; for broker, worker and up: stopped in order",
    ExitCode.FAILURE: "anything that has no number of its own; a worker that had to stop with work unfinished",
    ExitCode.USAGE: "the command line or a configuration is wrong",
    ExitCode.REFUSED: "what was given does not fit: inputs, a signature, the programs of a worker",
    ExitCode.NOT_FOUND: "no such program, revision, profile or job",
    ExitCode.DEADLINE: "the timeout passed",
    ExitCode.UNAVAILABLE: "no broker, no worker, or workers were lost: trying again may help",
    ExitCode.PROGRAM: "the program failed",
    ExitCode.LM: "the language model failed, refused, or is not configured",
    ExitCode.LIMIT: "too large, or too many",
    ExitCode.CANCELLED: "the job was cancelled by somebody else",
    ExitCode.STATE: "the state does not allow it, or this broker cannot do it",
    ExitCode.DENIED: "the credentials are not accepted, or not enough",
    ExitCode.INTERRUPTED: "Ctrl-C; a call's job was cancelled",
    ExitCode.TERMINATED: "SIGTERM; a call's job was cancelled",
}

_BY_CODE: Final[dict[str, ExitCode]] = {
    "CANCELLED": ExitCode.CANCELLED,
    "UNKNOWN": ExitCode.PROGRAM,
    "INVALID_ARGUMENT": ExitCode.REFUSED,
    "DEADLINE_EXCEEDED": ExitCode.DEADLINE,
    "NOT_FOUND": ExitCode.NOT_FOUND,
    "ALREADY_EXISTS": ExitCode.STATE,
    "PERMISSION_DENIED": ExitCode.DENIED,
    "RESOURCE_EXHAUSTED": ExitCode.LIMIT,
    "FAILED_PRECONDITION": ExitCode.STATE,
    "ABORTED": ExitCode.STATE,
    "OUT_OF_RANGE": ExitCode.REFUSED,
    "UNIMPLEMENTED": ExitCode.STATE,
    "INTERNAL": ExitCode.PROGRAM,
    "UNAVAILABLE": ExitCode.UNAVAILABLE,
    "DATA_LOSS": ExitCode.PROGRAM,
    "UNAUTHENTICATED": ExitCode.DENIED,
}

_BY_REASON: Final[dict[str, ExitCode]] = {
    "poison": ExitCode.PROGRAM,
}


def exit_code_for(code: str, reason: str) -> ExitCode:
    """The exit code of an error of the protocol (SPEC section 12). A reason that starts with `lm_` is the LM's."""
    if reason.startswith("lm_"):
        return ExitCode.LM
    return _BY_REASON.get(reason) or _BY_CODE.get(code, ExitCode.FAILURE)


def table() -> str:
    """The codes and what they mean, a line each, as `dspymq --help` shows them."""
    return "\n".join(f"{code.value:>5}  {meaning}" for code, meaning in MEANINGS.items())
