"""Every error of DSPy that a program can end with has a reason of SPEC.md section 12."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from dspymq.protocol.errors import REASONS
from tests.programs.inventory import inventory
from tests.programs.rig import Pool

ERRORS = [name for name in inventory()["Errors"] if isinstance(getattr(dspy, name), type)]


class Failing(dspy.Module):  # type: ignore[misc]
    """Ends with an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def aforward(self, question: str) -> Any:
        raise self._error


def made(name: str) -> Exception:
    kind = getattr(dspy, name)
    if name == "AdapterParseError":
        return kind("ChatAdapter", dspy.Signature("q -> a"), "nonsense")
    return kind(model="m") if name == "ContextWindowExceededError" else kind("no luck")


@pytest.mark.parametrize("name", ERRORS)
def test_errors_of_dspy_have_reasons(pool: Pool, name: str) -> None:
    error = made(name)
    pool.modules["it"] = Failing(error)
    found = pool.call("it", {"question": "x"})
    assert found.reason in REASONS
    assert found.code != "OK"
    assert "Traceback" not in str(found.message)
    if isinstance(error, dspy.LMProviderError):
        assert found.reason != "program_error"
        assert dspy.is_retryable_lm_error(error) <= found.retryable
