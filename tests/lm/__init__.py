"""The tests' LM: a scripted, deterministic, OpenAI-compatible server (see ScriptedLM and directives.py)."""

from .directives import DirectiveError
from .ledger import JobStats
from .scripted import GARBAGE, ScriptedLM
from .values import expected_answer, expected_value

__all__ = ["GARBAGE", "DirectiveError", "JobStats", "ScriptedLM", "expected_answer", "expected_value"]
