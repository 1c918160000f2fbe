"""What the client raises: one class for each code, so that callers catch by class and look at `reason` for more.

    DspymqError                     .code .reason .message .retryable .retry_after_ms .details .job .usage
    ├── InvalidArgument             inputs or a request are wrong; `.fields` says which
    ├── NotFound                    no such program, revision, profile, job
    ├── AlreadyExists               the job id was used for another content
    ├── PermissionDenied            this role may not do that
    ├── Unauthenticated             the broker wants other credentials
    ├── FailedPrecondition          the state is wrong: result gone, LM key refused, client forked
    ├── ResourceExhausted           too large, too many, or the LM's rate limit
    ├── Aborted                     superseded by another session, or the job killed its workers
    ├── Cancelled                   cancelled by its client
    │   └── ClientClosed            the client was closed before the answer came
    ├── DeadlineExceeded            the job's own timeout passed
    ├── Unavailable                 lost workers, no worker, the LM is down: trying again may help
    │   └── BrokerUnreachable       no broker answered at any address
    ├── Unimplemented               this broker does not have that
    ├── Internal                    a fault of dspymq, or an LM answer that does not fit
    └── ProgramError                code UNKNOWN: the program itself raised

Codes are gRPC's names, reasons are those of the protocol's registry (SPEC section 12), and a code without a class of
its own arrives as DspymqError. A wait that was given up (`Job.result(timeout_s=...)`) is Python's TimeoutError.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from dspymq.protocol.client_messages import Result
from dspymq.protocol.errors import Code, ProtocolError
from dspymq.protocol.messages import Error, Usage

__all__ = [
    "Aborted",
    "AlreadyExists",
    "BrokerUnreachable",
    "Cancelled",
    "ClientClosed",
    "DeadlineExceeded",
    "DspymqError",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "ProgramError",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]


class DspymqError(Exception):
    """Base of every error of a job, a request or the client; see the module's tree.

    `usage` is what the failed attempt had used, where its worker could tell; `retry_after_ms` is in milliseconds.
    """

    default_code: ClassVar[str] = Code.UNKNOWN.value
    default_reason: ClassVar[str] = ""

    def __init__(
        self,
        message: str = "",
        *,
        reason: str | None = None,
        code: str | None = None,
        retryable: bool = False,
        retry_after_ms: int | None = None,
        details: Mapping[str, Any] | None = None,
        job: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = self.default_reason if reason is None else reason
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.details: dict[str, Any] = dict(details or {})
        self.job = job
        self.usage = usage

    def __str__(self) -> str:
        kind = f"{self.code}/{self.reason}" if self.reason else self.code
        return f"{kind}: {self.message}" if self.message else kind

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword arguments can otherwise neither be copied nor cross a process boundary.
        return (_rebuild, (type(self), self.message, self._keywords()))

    def fresh(self) -> "DspymqError":
        """An equal error without traceback, so that one outcome can be raised in many places."""
        return type(self)(self.message, **self._keywords())

    def _keywords(self) -> dict[str, Any]:
        names = ("reason", "code", "retryable", "retry_after_ms", "details", "job", "usage")
        return {name: getattr(self, name) for name in names}


class InvalidArgument(DspymqError):
    """The inputs do not fit the signature, or an argument is wrong; nothing was run."""

    default_code = Code.INVALID_ARGUMENT.value

    @property
    def fields(self) -> dict[str, str]:
        """What is wrong, by field; empty when the fault is not in a field."""
        found = self.details.get("fields")
        if isinstance(found, Mapping):
            return {str(name): _words(problem) for name, problem in found.items()}
        if isinstance(found, list):
            entries = [entry for entry in found if isinstance(entry, Mapping)]
            return {str(entry.get("field", entry.get("name", ""))): _words(entry) for entry in entries}
        return {}


class NotFound(DspymqError):
    """There is no such program, revision, profile or job."""

    default_code = Code.NOT_FOUND.value


class AlreadyExists(DspymqError):
    """The job id was used for another content."""

    default_code = Code.ALREADY_EXISTS.value


class PermissionDenied(DspymqError):
    """The caller's role may not do this."""

    default_code = Code.PERMISSION_DENIED.value


class Unauthenticated(DspymqError):
    """The broker does not accept the credentials."""

    default_code = Code.UNAUTHENTICATED.value


class FailedPrecondition(DspymqError):
    """The state does not allow this: the result is gone, the LM's key is refused, the client was forked."""

    default_code = Code.FAILED_PRECONDITION.value


class ResourceExhausted(DspymqError):
    """A bound is reached: a size, a queue, the LM's rate; `retry_after_ms` where waiting helps."""

    default_code = Code.RESOURCE_EXHAUSTED.value


class Aborted(DspymqError):
    """The job is no longer this client's (`superseded`), or it ended the processes that ran it (`poison`)."""

    default_code = Code.ABORTED.value


class Cancelled(DspymqError):
    """The job was cancelled."""

    default_code = Code.CANCELLED.value


class ClientClosed(Cancelled):
    """The client was closed: before the answer came, or before the call was made."""

    default_reason = "client_closed"


class DeadlineExceeded(DspymqError):
    """The job's timeout passed before it was done."""

    default_code = Code.DEADLINE_EXCEEDED.value


class Unavailable(DspymqError):
    """Something needed is not there now: workers, the LM, the broker."""

    default_code = Code.UNAVAILABLE.value


class BrokerUnreachable(Unavailable):
    """No broker answered at any of the addresses; the message names them."""

    default_reason = "broker_unreachable"


class Unimplemented(DspymqError):
    """The broker does not know this message, method or version."""

    default_code = Code.UNIMPLEMENTED.value


class Internal(DspymqError):
    """A fault of dspymq itself, or an LM answer that does not fit the signature."""

    default_code = Code.INTERNAL.value


class ProgramError(DspymqError):
    """The program raised."""

    default_code = Code.UNKNOWN.value


_CLASSES: dict[str, type[DspymqError]] = {
    cls.default_code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        Unauthenticated,
        FailedPrecondition,
        ResourceExhausted,
        Aborted,
        Cancelled,
        DeadlineExceeded,
        Unavailable,
        Unimplemented,
        Internal,
        ProgramError,
    )
}


def class_for(code: str) -> type[DspymqError]:
    """The class of a code; DspymqError for one that has none."""
    return _CLASSES.get(code, DspymqError)


def from_result(result: Result) -> DspymqError:
    """The error of a result that is not OK."""
    return class_for(result.code)(
        result.message or "",
        code=result.code,
        reason=result.reason or "",
        retryable=result.retryable,
        retry_after_ms=result.retry_after_ms,
        details=result.details,
        job=result.job,
        usage=result.usage,
    )


def from_refusal(error: Error) -> DspymqError:
    """The error of a message that was refused."""
    return class_for(error.code)(
        error.message,
        code=error.code,
        reason=error.reason,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
        details=error.details,
        job=error.job,
    )


def from_protocol_error(problem: ProtocolError) -> DspymqError:
    """The error of something that was refused on this side, before it was sent."""
    return class_for(problem.code.value)(
        problem.message,
        code=problem.code.value,
        reason=problem.reason,
        retryable=problem.retryable,
        retry_after_ms=problem.retry_after_ms,
        details=problem.details,
        job=problem.job,
    )


def _rebuild(cls: type[DspymqError], message: str, keywords: dict[str, Any]) -> DspymqError:
    return cls(message, **keywords)


def _words(problem: Any) -> str:
    if isinstance(problem, Mapping):
        return str(problem.get("message") or problem.get("problem") or dict(problem))
    return str(problem)
