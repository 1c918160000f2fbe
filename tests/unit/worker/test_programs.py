"""Targets to programs: what a module exports, interfaces, revisions, and one clear error for a broken one."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspymq.worker.executor.programs import (
    Program,
    ProgramsError,
    interface_of,
    load_programs,
    make_program,
    runs_async,
)

Load = Callable[..., dict[str, Program]]
_numbers = itertools.count()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Load the programs of a module with the given source, optionally only NAME; modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"programs_under_test_{next(_numbers)}"

    def go(source: str, only: str = "", **others: str) -> dict[str, Program]:
        for other, text in others.items():
            (tmp_path / f"{other}.py").write_text(text)
            sys.modules.pop(other, None)
        (tmp_path / f"{name}.py").write_text(source)
        sys.modules.pop(name, None)
        return load_programs([f"{name}:{only}" if only else name], [str(tmp_path)])

    yield go
    sys.modules.pop(name, None)


HEAD = "import dspy\n"
SAMPLE = (
    HEAD
    + """
from dspy import ChainOfThought
qa = dspy.Predict("question -> answer")
_hidden = dspy.Predict("question -> answer")

class Tool(dspy.Module):
    def __init__(self, size=3):
        super().__init__()
    def forward(self, text: str, count: int = 2) -> dspy.Prediction:
        return dspy.Prediction(n=len(text) * count)

class NeedsArguments(dspy.Module):
    def __init__(self, size):
        super().__init__()

def factory() -> dspy.Module:
    return dspy.ChainOfThought("question -> answer")

def main():
    raise RuntimeError("not a factory")

def helper(x) -> dspy.Module: ...
"""
)


def test_what_a_module_offers(load: Load) -> None:
    assert sorted(load(SAMPLE)) == ["Tool", "factory", "qa"]


def test_one_name(load: Load) -> None:
    assert list(load(SAMPLE, "factory")) == ["factory"]
    assert list(load(HEAD + "def make(): return dspy.Predict('q -> a')", "make")) == ["make"]


def test_all_decides(load: Load) -> None:
    source = SAMPLE + "\ndef unannotated(): return dspy.Predict('q -> a')\n__all__ = ['qa', 'unannotated']\n"
    assert sorted(load(source)) == ["qa", "unannotated"]


def test_a_class_is_not_offered_beside_its_instance(load: Load) -> None:
    assert sorted(load(SAMPLE + "\ntool = Tool()\n")) == ["factory", "qa", "tool"]


@pytest.mark.parametrize(
    ("source", "only", "message"),
    [
        ("import does_not_exist_anywhere", "", "importing it failed: ModuleNotFoundError"),
        ("x = 1 / 0", "", "importing it failed: ZeroDivisionError"),
        ("def x(:\n  pass", "", "SyntaxError"),
        ("raise SystemExit(3)", "", "importing it failed: SystemExit"),
        ("x = 1", "", "exports no dspy.Module"),
        (HEAD + "qa = dspy.Predict('q -> a')", "nope", "has no 'nope'; its dspy.Module instances: qa"),
        (HEAD + "qa = 5", "qa", "qa is a int"),
        (HEAD + "def f() -> dspy.Module:\n    raise KeyError('k')", "", "f() failed: KeyError"),
        (HEAD + "def f() -> dspy.Module:\n    return 5", "", "f() returned int"),
        (HEAD + "class A(dspy.Module): pass", "", "neither `forward` nor `aforward`"),
        (HEAD + "class A(dspy.Module):\n    def __init__(self, x): pass", "A", "needs arguments"),
        (HEAD + "__all__ = ['gone']", "", "which does not exist"),
    ],
)
def test_a_broken_module_gives_one_clear_line(load: Load, source: str, only: str, message: str) -> None:
    with pytest.raises(ProgramsError) as caught:
        load(source, only)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.target.startswith("programs_under_test")


def test_a_missing_module_and_a_bad_target() -> None:
    with pytest.raises(ProgramsError, match="no module named surely_not_here"):
        load_programs(["surely_not_here"])
    with pytest.raises(ProgramsError, match="is not MODULE"):
        load_programs(["../etc/passwd"])


def test_the_same_name_from_two_targets(load: Load) -> None:
    load(SAMPLE, other_programs=HEAD + "qa = dspy.Predict('a -> b')")
    name = next(module for module in sys.modules if module.startswith("programs_under_test"))
    with pytest.raises(ProgramsError, match="'qa' is already taken"):
        load_programs([name, "other_programs"])
    assert sorted(load_programs([name, f"{name}:qa"])) == ["Tool", "factory", "qa"]


def test_a_revision_changes_with_source_state_and_helpers(load: Load) -> None:
    source = "import helper_module\n" + SAMPLE
    first = load(source, helper_module="x = 1")
    assert load(source, helper_module="x = 1")["qa"].revision == first["qa"].revision
    assert load(source, helper_module="x = 2")["qa"].revision != first["qa"].revision
    assert load(source + "#", helper_module="x = 1")["qa"].revision != first["qa"].revision
    tuned = make_program("qa", dspy.Predict("question -> answer"))
    plain = tuned.revision
    tuned.module.demos = [dspy.Example(question="q", answer="a")]
    assert make_program("qa", tuned.module).revision != plain
    assert len(plain) == 32
    assert set(plain) <= set("0123456789abcdef")


class Custom(dspy.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.step = dspy.Predict("text, style: int -> answer, score: float")

    def forward(self, text: Any, style, size: int = 3) -> Any:  # type: ignore[no-untyped-def]
        return self.step(text=text, style=style)


class Renamed(dspy.ChainOfThought):  # type: ignore[misc]
    def forward(self, question: str) -> Any:
        return super().forward(question=question)


class Open(dspy.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = dspy.Predict("a -> b"), dspy.Predict("b -> c")

    def forward(self, a: str, **rest: Any) -> Any:
        return self.second(b=self.first(a=a).b)


def test_the_interface_of_dspy_modules() -> None:
    for module in (
        dspy.Predict("q, n: int -> a"),
        dspy.ReAct("q, n: int -> a", tools=[]),
        dspy.RLM("q, n: int -> a", interpreter_factory=dspy.LocalInterpreter),
    ):
        found = interface_of(module)
        assert (list(found.input_schema["properties"]), found.outputs, found.is_exact) == (["q", "n"], ("a",), True)
    thought = interface_of(dspy.ChainOfThought("q -> a"))
    assert thought.outputs == ("reasoning", "a")
    assert thought.texts == {"reasoning", "a"}


def test_the_interface_of_a_forward_of_its_own() -> None:
    found = interface_of(Custom())
    properties = found.input_schema["properties"]
    assert list(properties) == ["text", "style", "size"]
    assert properties["text"]["type"] == "string", "unannotated: from the predictor"
    assert properties["style"]["type"] == "integer"
    assert found.input_schema["required"] == ["text", "style"]
    assert (found.outputs, found.is_exact, found.texts) == (("answer", "score"), False, {"answer"})


def test_the_interface_of_an_open_forward() -> None:
    found = interface_of(Open())
    assert (found.model, found.required, found.known, found.outputs) == (None, ("a",), None, None)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (dspy.Predict("q -> a"), True),
        (dspy.ChainOfThought("q -> a"), True),
        (dspy.ReAct("q -> a", tools=[]), True),
        (Custom(), False),
        (Renamed("question -> answer"), False),
        (dspy.MultiChainComparison("q -> a"), False),
        (dspy.RLM("q -> a", interpreter_factory=dspy.LocalInterpreter), False),
        (dspy.BestOfN(dspy.Predict("q -> a"), 2, lambda args, pred: 1.0, 1.0), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_async_is_what_its_author_wrote_and_not_what_it_inherits(module: Any, expected: bool) -> None:
    assert runs_async(module) is expected


def test_code_act_inherits_an_aforward_that_fails() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    module = dspy.CodeAct("q -> a", tools=[add])
    assert hasattr(module, "aforward")
    assert runs_async(module) is False


def test_what_fails_takes_only_itself_out(load: Load, tmp_path: Path) -> None:
    load(SAMPLE, broken_programs="x = 1\n\n1 / 0\n")
    name = next(module for module in sys.modules if module.startswith("programs_under_test"))
    (tmp_path / f"{name}.py").write_text(SAMPLE + "\ndef bad() -> dspy.Module:\n    raise KeyError('no prompt')\n")
    sys.modules.pop(name)
    problems: dict[str, str] = {}
    found = load_programs([name, "broken_programs", f"{name}:nope"], [str(tmp_path)], None, problems)
    assert sorted(found) == ["Tool", "factory", "qa"]
    assert sorted(problems) == ["broken_programs", f"{name}:bad", f"{name}:nope"]
    assert "broken_programs.py, line 3" in problems["broken_programs"]
    assert "no prompt" in problems[f"{name}:bad"]


def test_nothing_left_to_offer_is_an_error_all_the_same(load: Load) -> None:
    load(SAMPLE, broken_programs="1 / 0\n")
    problems: dict[str, str] = {}
    with pytest.raises(ProgramsError, match="ZeroDivisionError"):
        load_programs(["broken_programs"], [], None, problems)
    assert load_programs([], [], None, problems) == {}
