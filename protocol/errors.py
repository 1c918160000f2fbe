"""The error registry (SPEC section 12): gRPC's canonical codes, and the reasons that refine them.

Clients switch on `code` and `reason`, never on the message. `REASONS` is the whole registry; SPEC.md's table is
tested against it.
"""

import enum
from typing import Any, Final, NamedTuple


class Code(enum.StrEnum):
    """gRPC's canonical status codes, by name."""

    OK = "OK"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class Reason(NamedTuple):
    """One row of the registry: the code it belongs to, whether trying again may help, and what it means."""

    code: Code
    retryable: bool
    meaning: str


REASONS: Final[dict[str, Reason]] = {
    # The message itself
    "bad_frames": Reason(Code.INVALID_ARGUMENT, False, "not [tag, header] or [tag, header, body]"),
    "bad_header": Reason(Code.INVALID_ARGUMENT, False, "the header breaks the msgpack profile or a field's type"),
    "unknown_type": Reason(Code.UNIMPLEMENTED, False, "no message has this `t`"),
    "unsupported_version": Reason(Code.UNIMPLEMENTED, False, "the frame tag is not spoken; see details.versions"),
    "wrong_endpoint": Reason(Code.FAILED_PRECONDITION, False, "this message belongs to the other endpoint"),
    "wrong_direction": Reason(Code.FAILED_PRECONDITION, False, "only a broker sends this message"),
    "no_session": Reason(Code.FAILED_PRECONDITION, True, "say hello first (again after a broker restart)"),
    "not_ready": Reason(Code.FAILED_PRECONDITION, True, "a worker sends `ready` before this message"),
    "one_shot_only": Reason(Code.FAILED_PRECONDITION, False, "a REQ peer may only submit (no `want`), request, ping"),
    "header_too_large": Reason(Code.RESOURCE_EXHAUSTED, False, "the header exceeds max_header_bytes"),
    "body_too_large": Reason(Code.RESOURCE_EXHAUSTED, False, "the body exceeds max_body_bytes"),
    # Jobs, refused or ended by the broker
    "id_conflict": Reason(Code.ALREADY_EXISTS, False, "this job id was used for another content"),
    "result_gone": Reason(Code.FAILED_PRECONDITION, False, "this job ended and its result is no longer kept"),
    "superseded": Reason(Code.ABORTED, False, "another session attached to this job; it must not be resubmitted"),
    "not_attached": Reason(Code.FAILED_PRECONDITION, False, "only the attached client may do this"),
    "unknown_job": Reason(Code.NOT_FOUND, False, "no such job"),
    "unknown_program": Reason(Code.NOT_FOUND, False, "no worker ever offered this program; details.close_matches"),
    "unknown_revision": Reason(Code.NOT_FOUND, False, "the worker does not have this revision"),
    "unknown_profile": Reason(Code.NOT_FOUND, False, "the worker has no such LM profile"),
    "no_worker": Reason(Code.UNAVAILABLE, True, "no worker can run this now, and fail_fast was asked for"),
    "worker_lost": Reason(Code.UNAVAILABLE, True, "workers were lost and the attempts are used up"),
    "circuit_open": Reason(Code.UNAVAILABLE, True, "the program failed again and again and is not run for a while"),
    "poison": Reason(Code.ABORTED, False, "this job ended two processes that ran it alone"),
    "adopting": Reason(Code.UNAVAILABLE, True, "the broker has just started and still waits for its workers"),
    "queue_full": Reason(Code.RESOURCE_EXHAUSTED, True, "a bound on queued jobs is reached; retry_after_ms"),
    "cancelled": Reason(Code.CANCELLED, False, "cancelled by its client"),
    "client_gone": Reason(Code.CANCELLED, False, "its client went away and on_disconnect was `cancel`"),
    "deadline": Reason(Code.DEADLINE_EXCEEDED, True, "timeout_ms passed"),
    "shutdown": Reason(Code.UNAVAILABLE, True, "the broker is stopping"),
    # Requests
    "unknown_method": Reason(Code.UNIMPLEMENTED, False, "no such method; details.methods"),
    "not_allowed": Reason(Code.PERMISSION_DENIED, False, "this role may not call the method"),
    "unknown_worker": Reason(Code.NOT_FOUND, False, "no worker of this name is known; details.workers"),
    "not_finished": Reason(Code.FAILED_PRECONDITION, False, "the job has not ended yet"),
    "invalid_params": Reason(Code.INVALID_ARGUMENT, False, "the params of a request are wrong"),
    # What a worker finds wrong with a job
    "definitions_full": Reason(Code.RESOURCE_EXHAUSTED, False, "a bound on defined programs is reached"),
    "store_failed": Reason(Code.UNAVAILABLE, True, "what the broker was to keep could not be written"),
    "aliased": Reason(Code.FAILED_PRECONDITION, False, "an alias stands for this revision"),
    "alias_moved": Reason(Code.FAILED_PRECONDITION, False, "the alias stands for another revision than expected"),
    "invalid_body": Reason(Code.INVALID_ARGUMENT, False, "the body is not the msgpack map that its message needs"),
    "invalid_inputs": Reason(Code.INVALID_ARGUMENT, False, "inputs do not fit the signature; details.fields"),
    "invalid_spec": Reason(Code.INVALID_ARGUMENT, False, "the inline program cannot be built"),
    "invalid_tools": Reason(Code.INVALID_ARGUMENT, False, "the tools of the body cannot be offered; details.tool"),
    "result_too_large": Reason(Code.RESOURCE_EXHAUSTED, False, "the outputs exceed max_body_bytes"),
    "unserializable_output": Reason(Code.INTERNAL, False, "an output cannot be written as msgpack"),
    "program_error": Reason(Code.UNKNOWN, False, "the program raised"),
    "lm_auth": Reason(Code.FAILED_PRECONDITION, False, "the LM refused the worker's key"),
    "lm_billing": Reason(Code.FAILED_PRECONDITION, False, "the LM's account has no quota left"),
    "lm_not_configured": Reason(Code.FAILED_PRECONDITION, False, "no LM profile, or a profile without its key"),
    "lm_invalid_request": Reason(Code.FAILED_PRECONDITION, False, "the LM refused the request itself"),
    "lm_rate_limited": Reason(Code.RESOURCE_EXHAUSTED, True, "the LM asks to slow down; retry_after_ms"),
    "lm_unavailable": Reason(Code.UNAVAILABLE, True, "the LM failed or cannot be reached"),
    "lm_timeout": Reason(Code.UNAVAILABLE, True, "the LM did not answer within the profile's timeout"),
    "lm_circuit_open": Reason(Code.UNAVAILABLE, True, "the LM failed again and again and is not called for a while"),
    "lm_output_unparsable": Reason(Code.INTERNAL, True, "the LM's answer does not fit the signature"),
    "context_window_exceeded": Reason(Code.INVALID_ARGUMENT, False, "the prompt is longer than the LM takes"),
    "internal": Reason(Code.INTERNAL, False, "a fault of dspymq itself"),
    # Between supervisor and executor only; never seen by a broker
    "programs_failed": Reason(Code.FAILED_PRECONDITION, False, "the worker's programs cannot be loaded"),
    "threads_started": Reason(Code.FAILED_PRECONDITION, False, "importing the programs started a thread"),
}


class ProtocolError(Exception):
    """A message that cannot be taken; carries what the answering `error` must say.

    `job`, `rid` and `lease` are filled when the refused header still showed them.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        rid: str | None = None,
        job: str | None = None,
        lease: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.details = details
        self.rid = rid
        self.job = job
        self.lease = lease
        self.retry_after_ms = retry_after_ms
        self.was_error = False
        """Whether what cannot be taken is itself an `error`: that is never answered."""

    @property
    def code(self) -> Code:
        """The canonical code that the registry gives this reason."""
        return REASONS[self.reason].code

    @property
    def retryable(self) -> bool:
        """Whether the registry says that trying again may help."""
        return REASONS[self.reason].retryable
