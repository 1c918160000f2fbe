"""From whatever a program or its LM raises to what a job's result says. No traceback leaves the worker."""

import asyncio
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from dspy.utils.exceptions import (
    AdapterParseError,
    ContextWindowExceededError,
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMError,
    LMInvalidRequestError,
    LMProviderError,
    LMRateLimitError,
    LMServerError,
    LMStreamAssemblyError,
    LMTimeoutError,
    LMTransportError,
    LMUnexpectedError,
    LMUnsupportedFeatureError,
)

from dspymq.protocol.errors import REASONS, ProtocolError
from dspymq.worker.executor.engine import BlockingCallError
from dspymq.worker.executor.gates import CIRCUIT_OPEN
from dspymq.worker.executor.requests import Refused

MAX_MESSAGE_CHARS: Final = 2_000
MAX_EXCERPT_CHARS: Final = 1_000


class JobError(Exception):
    """A job that cannot go on, by a reason of the registry (dspymq.protocol.errors.REASONS)."""

    def __init__(self, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.details = details


def job_error(refused: Refused, *, otherwise: str) -> JobError:
    """What the supervisor refused, as a job's error; `otherwise` is the reason if its own is none of the protocol's."""
    error = refused.error
    return JobError(error.reason if error.reason in REASONS else otherwise, error.message)


@dataclass(frozen=True)
class Failure:
    """Why a job failed, as its result says it."""

    reason: str
    message: str
    details: dict[str, Any] | None = None
    retry_after_ms: int | None = None
    retryable: bool | None = None

    @property
    def code(self) -> str:
        """The canonical code of the reason."""
        return str(REASONS[self.reason].code)

    def is_retryable(self) -> bool:
        """Whether trying again may help: the registry's word unless this failure knows better."""
        return REASONS[self.reason].retryable if self.retryable is None else self.retryable


def classify(error: BaseException, secrets: Collection[str] = ()) -> Failure:
    """The failure that this exception is. Each of `secrets` (API keys) is blotted out of what it says."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    failure = _classify(error)
    message = failure.message
    for secret in secrets:
        message = message.replace(secret, "***")
    return Failure(
        failure.reason,
        _clean(message, MAX_MESSAGE_CHARS),
        failure.details,
        failure.retry_after_ms,
        failure.retryable,
    )


def _classify(error: BaseException) -> Failure:
    if isinstance(error, JobError | ProtocolError):
        return Failure(error.reason, error.message, error.details)
    if isinstance(error, AdapterParseError):
        return _unparsable(error)
    if isinstance(error, BlockingCallError):
        return Failure("program_error", error.message)
    if isinstance(error, LMUnexpectedError) and isinstance(error.__cause__, JobError):
        return _classify(error.__cause__)
    if isinstance(error, LMError):
        return _lm_failure(error)
    if isinstance(error, ValueError) and str(error).startswith("No LM is loaded"):
        return Failure("lm_not_configured", "the program needs an LM and this worker has no profile `default`")
    if isinstance(error, asyncio.CancelledError):
        return Failure("program_error", "the program cancelled itself")
    text = str(error)
    kind = type(error).__name__
    return Failure("program_error", f"{kind}: {text}" if text else kind, {"type": kind})


def _lm_failure(error: LMError) -> Failure:
    reason = _lm_reason(error)
    details = {
        key: str(value) if isinstance(value, str) else value
        for key in ("model", "provider", "provider_code", "status", "request_id")
        if isinstance(value := getattr(error, key, None), str | int) and not isinstance(value, bool)
    }
    retry_after_ms = None
    if isinstance(error.retry_after, int | float) and math.isfinite(error.retry_after) and error.retry_after >= 0:
        retry_after_ms = math.ceil(error.retry_after * 1000)
    # What follows the first paragraph is advice on Python code that the client does not have.
    first = (error.message or str(error.code)).split("\n\n")[0].strip()
    return Failure(reason, f"{type(error).__name__}: {first}", details or None, retry_after_ms)


_LM_REASONS: Final[tuple[tuple[type[LMError], str], ...]] = (
    (ContextWindowExceededError, "context_window_exceeded"),
    (LMAuthError, "lm_auth"),
    (LMBillingError, "lm_billing"),
    (LMRateLimitError, "lm_rate_limited"),
    (LMInvalidRequestError, "lm_invalid_request"),
    (LMTimeoutError, "lm_timeout"),
    (LMServerError, "lm_unavailable"),
    (LMStreamAssemblyError, "lm_unavailable"),
    (LMConfigurationError, "lm_not_configured"),
    (LMUnsupportedFeatureError, "lm_invalid_request"),
    (LMUnexpectedError, "internal"),
)
"""Subclasses before their parents."""


def _lm_reason(error: LMError) -> str:
    if error.provider_code == CIRCUIT_OPEN:
        return CIRCUIT_OPEN
    for kind, reason in _LM_REASONS:
        if isinstance(error, kind):
            return reason
    if isinstance(error, LMProviderError):
        status = error.status or 0
        return "lm_invalid_request" if 400 <= status < 500 else "lm_unavailable"
    if isinstance(error, LMTransportError) and _timed_out(error):
        return "lm_timeout"
    return "lm_unavailable"


def _timed_out(error: BaseException) -> bool:
    """DSPy's native engine reports a read timeout as a transport error; what timed out is in its causes."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, TimeoutError) or type(seen).__name__ in ("ReadTimeout", "WriteTimeout", "PoolTimeout"):
            return True
        seen = seen.__cause__
    return False


def _unparsable(error: AdapterParseError) -> Failure:
    expected = list(getattr(error.signature, "output_fields", {}))
    message = f"{error.adapter_name} cannot read the fields {', '.join(expected)} from the LM's answer"
    details: dict[str, Any] = {"expected": expected[:64]}
    if isinstance(error.lm_response, str):
        details["lm_response"] = _clean(error.lm_response, MAX_EXCERPT_CHARS)
    return Failure("lm_output_unparsable", message, details)


def _clean(text: str, limit: int) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 3] + "..."
