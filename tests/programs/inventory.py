"""What the installed DSPy has to offer, by introspection: names by section of docs/programs.md."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import dspy
import dspy.evaluate
import dspy.experimental
import dspy.streaming
from dspy.teleprompt.teleprompt import Teleprompter

from dspymq.worker.executor import signature_text
from dspymq.worker.executor.spec_nodes import ADAPTERS, KINDS, REFUSED_KINDS
from dspymq.worker.executor.spec_types import DSPY_TYPES

SECTIONS: Final = (
    "Modules",
    "Adapters",
    "Types of fields",
    "Types of Python in a signature",
    "Signatures",
    "Tools",
    "Optimizers",
    "Evaluation",
    "Retrieval",
    "Language models",
    "Streaming",
    "Values and interpreters",
    "Errors",
    "Settings and helpers",
)
_HOMES: Final = (
    ("dspy.predict", "Modules"),
    ("dspy.adapters.types.tool", "Tools"),
    ("dspy.adapters.types", "Types of fields"),
    ("dspy.adapters", "Adapters"),
    ("dspy.signatures", "Signatures"),
    ("dspy.teleprompt", "Optimizers"),
    ("dspy.evaluate", "Evaluation"),
    ("dspy.retrievers", "Retrieval"),
    ("dspy.dsp.colbertv2", "Retrieval"),
    ("dspy.clients.embedding", "Retrieval"),
    ("dspy.clients", "Language models"),
    ("dspy.streaming", "Streaming"),
    ("dspy.primitives", "Values and interpreters"),
    ("dspy.utils.exceptions", "Errors"),
    ("dspy", "Settings and helpers"),
)
_TOOLS: Final = (dspy.Tool, dspy.ToolCalls, dspy.ToolCalls.ToolCall, dspy.ToolCallResults)
_WALKED: Final = ("dspy.predict", "dspy.adapters", "dspy.teleprompt")
_BASES: Final = (dspy.Module, dspy.Adapter, Teleprompter, dspy.Type)


def inventory() -> dict[str, list[str]]:
    """The names of each section, sorted."""
    found: dict[str, set[str]] = {section: set() for section in SECTIONS}
    for name, value in [*_exported(), *_hidden()]:
        home = _home(name, value)
        found[next(section for prefix, section in _HOMES if f"{home}.".startswith(f"{prefix}."))].add(name)
    for owner in _TOOLS:
        fields = getattr(owner, "model_fields", {})
        members = {member for member in vars(owner) if not member.startswith(("_", "model_"))}
        found["Tools"] |= {f"{owner.__qualname__}.{member}" for member in {*members, *fields}}
    generic = {f"{name}[...]" for name in signature_text._GENERIC}
    found["Types of Python in a signature"] = {*signature_text._SIMPLE, *generic, "JSON Schema"}
    return {section: sorted(names, key=str.lower) for section, names in found.items()}


def ours() -> dict[str, list[str]]:
    """What the grammar of specs has: kinds, adapters, types of DSPy."""
    return {"kinds": [*KINDS], "refused": [*REFUSED_KINDS], "adapters": [*ADAPTERS], "types": [*DSPY_TYPES]}


def _exported() -> Iterator[tuple[str, Any]]:
    for name in dir(dspy):
        value = getattr(dspy, name)
        if not name.startswith("_") and not isinstance(value, ModuleType):
            yield name, value
    for package in (dspy.experimental, dspy.evaluate, dspy.streaming):
        for name in package.__all__:
            if not hasattr(dspy, name):
                yield f"{package.__name__.removeprefix('dspy.')}.{name}", getattr(package, name)


def _hidden() -> Iterator[tuple[str, Any]]:
    """Modules, adapters, optimizers and types that DSPy has, and exports nowhere."""
    known = {id(value) for _, value in _exported()}
    for root in _WALKED:
        for info in pkgutil.walk_packages(importlib.import_module(root).__path__, f"{root}."):
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                is_one = isinstance(value, type) and issubclass(value, _BASES) and value.__module__ == info.name
                if is_one and id(value) not in known and not name.startswith("_"):
                    yield f"{info.name.removeprefix('dspy.')}.{name}", value


def _home(name: str, value: Any) -> str:
    if name.startswith(("experimental.", "evaluate.", "streaming.")):
        home = getattr(value, "__module__", "")
        return home if home.startswith("dspy.") else f"dspy.{name}"
    home = getattr(value, "__module__", "") or ""
    return home if home.startswith("dspy") else "dspy"
