"""Every exception has its reason, and the code and word on retrying that the registry gives it."""

from typing import Any

import dspy
import pytest
from dspy.utils import exceptions as e

from dspymq.protocol.errors import REASONS, ProtocolError
from dspymq.worker.executor.failures import JobError, classify


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason", "code", "retryable"),
    [
        (e.LMAuthError("m"), "lm_auth", "FAILED_PRECONDITION", False),
        (e.LMBillingError("m"), "lm_billing", "FAILED_PRECONDITION", False),
        (e.LMRateLimitError("m", retry_after=1.5), "lm_rate_limited", "RESOURCE_EXHAUSTED", True),
        (e.LMServerError("m", status=503), "lm_unavailable", "UNAVAILABLE", True),
        (e.LMTransportError("m"), "lm_unavailable", "UNAVAILABLE", True),
        (caused(e.LMTransportError("m"), TimeoutError()), "lm_timeout", "UNAVAILABLE", True),
        (e.LMTimeoutError("m"), "lm_timeout", "UNAVAILABLE", True),
        (e.LMStreamAssemblyError("m"), "lm_unavailable", "UNAVAILABLE", True),
        (e.LMInvalidRequestError("m"), "lm_invalid_request", "FAILED_PRECONDITION", False),
        (e.LMUnsupportedModelError("m"), "lm_invalid_request", "FAILED_PRECONDITION", False),
        (e.LMUnsupportedFeatureError("m"), "lm_invalid_request", "FAILED_PRECONDITION", False),
        (e.LMProviderError("m", status=422), "lm_invalid_request", "FAILED_PRECONDITION", False),
        (e.LMProviderError("m", status=599), "lm_unavailable", "UNAVAILABLE", True),
        (e.ContextWindowExceededError(model="m"), "context_window_exceeded", "INVALID_ARGUMENT", False),
        (e.LMNotConfiguredError("m"), "lm_not_configured", "FAILED_PRECONDITION", False),
        (e.LMConfigurationError("m"), "lm_not_configured", "FAILED_PRECONDITION", False),
        (ValueError("No LM is loaded. Please ..."), "lm_not_configured", "FAILED_PRECONDITION", False),
        (e.LMUnexpectedError("m"), "internal", "INTERNAL", False),
        (caused(e.LMUnexpectedError("m"), JobError("lm_unavailable", "x")), "lm_unavailable", "UNAVAILABLE", True),
        (JobError("invalid_inputs", "m"), "invalid_inputs", "INVALID_ARGUMENT", False),
        (ProtocolError("invalid_body", "m"), "invalid_body", "INVALID_ARGUMENT", False),
        (KeyError("k"), "program_error", "UNKNOWN", False),
        (ExceptionGroup("g", [e.LMAuthError("m")]), "lm_auth", "FAILED_PRECONDITION", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_mapping(error: Exception, reason: str, code: str, retryable: bool) -> None:
    failure = classify(error)
    assert (failure.reason, failure.code, failure.is_retryable()) == (reason, code, retryable)
    assert reason in REASONS


def test_a_rate_limit_says_when() -> None:
    assert classify(e.LMRateLimitError("m", retry_after=1.2345)).retry_after_ms == 1235
    assert classify(e.LMRateLimitError("m")).retry_after_ms is None


def test_an_unparsable_answer_shows_an_excerpt() -> None:
    signature = dspy.Signature("q -> a, b")
    failure = classify(e.AdapterParseError("ChatAdapter", signature, "x" * 5000))
    assert (failure.reason, failure.code, failure.is_retryable()) == ("lm_output_unparsable", "INTERNAL", True)
    assert failure.details is not None
    assert failure.details["expected"] == ["a", "b"]
    assert len(failure.details["lm_response"]) == 1000


def test_messages_are_bounded_and_hold_no_traceback_no_advice_and_no_key() -> None:
    def deep(n: int) -> Any:
        return deep(n - 1) if n else 1 / 0

    try:
        deep(5)
    except ZeroDivisionError as error:
        message = classify(error).message
    assert message == "ZeroDivisionError: division by zero"
    assert len(classify(RuntimeError("x" * 100_000)).message) <= 2000
    assert "secret-key" not in classify(RuntimeError("bad key secret-key"), ["secret-key"]).message
    assert "To fix" not in classify(e.LMAuthError("no\n\n  To fix:\n    - do that")).message
