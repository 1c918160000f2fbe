"""`import dspymq` is light, and what it exports is what it says."""

import subprocess
import sys

import pytest

import dspymq
from dspymq import exceptions


def test_exports_are_sorted_and_all_there():
    assert dspymq.__all__ == sorted(dspymq.__all__)
    for name in dspymq.__all__:
        assert getattr(dspymq, name).__name__ == name
    assert set(dspymq.__all__) <= set(dir(dspymq))
    with pytest.raises(AttributeError, match="nothing"):
        dspymq.nothing  # noqa: B018


def test_every_exception_is_exported():
    assert set(exceptions.__all__) <= set(dspymq.__all__)
    assert exceptions.__all__ == sorted(exceptions.__all__)
    defined = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, exceptions.DspymqError)
    }
    assert defined == set(exceptions.__all__)
    for name in exceptions.__all__:
        assert name in (exceptions.__doc__ or ""), f"{name} is missing in the tree"


def test_type_checkers_see_the_same_names():
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(dspymq))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    names = [alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(names) == dspymq.__all__


def loaded_after(code: str, *modules: str) -> list[str]:
    program = f"{code}\nimport sys\nprint(*[name for name in {modules!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import dspymq", ("zmq", "dspy", "msgspec", "asyncio")),
        ("import dspymq.worker", ("zmq",)),
        ("from dspymq import *", ("zmq", "dspy", "dspymq.broker", "dspymq.worker", "dspymq.cli")),
        ("import dspymq.testing", ("zmq", "dspy", "dspymq.broker", "dspymq.worker")),
        ("from dspymq import Client; Client('tcp://127.0.0.1:1').close()", ("zmq", "dspy")),
        ("from dspymq import DspymqError", ("zmq", "dspymq.client")),
    ],
)
def test_nothing_more_is_loaded_than_needed(code, modules):
    assert loaded_after(code, *modules) == []


def test_client_loads_zmq_only_when_it_connects():
    code = "from dspymq import Client; Client('tcp://127.0.0.1:1').submit('x').result(0.2)"
    code = f"try:\n  {code}\nexcept TimeoutError:\n  pass"
    assert loaded_after(code, "zmq", "dspy") == ["zmq"]
