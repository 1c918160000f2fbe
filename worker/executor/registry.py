"""What a pool's own modules lend to programs that clients define as data: tools, rewards, and leave to run code.

    from dspymq.worker.executor.registry import reward, tool

    @tool
    def search(query: str, limit: int = 5) -> list[str]:
        "Titles of the pages that fit best."

    @reward
    def is_short(inputs, prediction) -> float:
        return 1.0 if len(prediction.answer) < 200 else 0.0

They are registered when the pool imports its targets, and named in a spec by their names. A function may be
asynchronous; others run in a thread.
"""

import asyncio
import contextvars
import functools
import inspect
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import dspy

from dspymq.worker.executor.inputs import neutral
from dspymq.worker.executor.tool_channel import ToolError
from dspymq.worker.executor.tool_schema import Parameters

Function = TypeVar("Function", bound=Callable[..., Any])
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass
class Registry:
    """Tools and rewards by name. `interpreter` makes the interpreters of code that models write; None: no such code."""

    tools: dict[str, "PoolTool"] = field(default_factory=dict)
    rewards: dict[str, Callable[..., Any]] = field(default_factory=dict)
    interpreter: Callable[[], Any] | None = None

    def add_tool(self, function: Callable[..., Any], name: str | None = None, description: str | None = None) -> None:
        """Lend a function as a tool. Raises ValueError for a name that cannot be used or is taken."""
        name = _free_name(name or function.__name__, self.tools)
        self.tools[name] = PoolTool(dspy.Tool(function, name=name, desc=description))

    def add_reward(self, function: Callable[..., Any], name: str | None = None) -> None:
        """Lend `function(inputs, prediction) -> float` as a reward. Raises ValueError as `add_tool`."""
        self.rewards[_free_name(name or function.__name__, self.rewards)] = function


REGISTRY: Final = Registry()
"""That of this process."""


def tool(function: Function) -> Function:
    """Lend this function as a tool, under its own name; its docstring is what models read."""
    REGISTRY.add_tool(function)
    return function


def reward(function: Function) -> Function:
    """Lend this function as a reward of `best_of_n` and `refine`."""
    REGISTRY.add_reward(function)
    return function


def allow_code(interpreter: Callable[[], Any] = dspy.PythonInterpreter) -> None:
    """The operator's word that specs may be of the kind `rlm`, whose models write Python code.

    `interpreter` makes what runs it: dspy.PythonInterpreter is a sandbox, and needs Deno 2 and the network at its
    first start; dspy.LocalInterpreter is a plain process with all rights of the pool.
    """
    REGISTRY.interpreter = interpreter


_THREADS: Final = ThreadPoolExecutor(64, thread_name_prefix="lent")
"""Not the loop's own threads, through which DSPy hops at each call of an LM."""


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a synchronous function returns, run in a thread with the settings of the job that calls it."""
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


class PoolTool(dspy.Tool):  # type: ignore[misc]
    """A function of the pool as a tool: arguments are checked, and what goes wrong is one short line."""

    def __init__(self, made: dspy.Tool) -> None:
        super().__init__(made.func, name=made.name, desc=made.desc, args=made.args, arg_types=made.arg_types)
        required = [
            name
            for name, parameter in inspect.signature(made.func).parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
        schema = {"type": "object", "properties": made.args or {}, "required": required}
        self._parameters = Parameters({**schema, "additionalProperties": bool(made.has_kwargs)})

    _parameters: Any = None

    def __call__(self, **kwargs: Any) -> Any:
        """Run it in the caller's thread. Raises ToolError."""
        with _short_errors(self.name):
            return neutral(super().__call__(**self._checked(kwargs)))

    async def acall(self, **kwargs: Any) -> Any:
        """Run it on the event loop if it is asynchronous, else in a thread. Raises ToolError."""
        if not inspect.iscoroutinefunction(self.func):
            return await in_thread(self.__call__, **kwargs)
        with _short_errors(self.name):
            return neutral(await super().acall(**self._checked(kwargs)))

    def _checked(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        problems = self._parameters.problems(kwargs)
        if problems:
            raise ToolError(f"wrong arguments for the tool `{self.name}`: {'; '.join(problems)}")
        return kwargs


class _short_errors:
    """Turns whatever a function raises into a ToolError, which shows the model no traceback."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, ToolError):
            text = " ".join(neutral(str(error)).split())
            raise ToolError(f"the tool `{self._name}` failed: {type(error).__name__}: {text}") from None


def _free_name(name: str, taken: dict[str, Any]) -> str:
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is no name for a tool or reward: 1 to 64 ASCII letters, digits, `_` or `-`")
    if name in ("finish", "submit"):
        raise ValueError(f"the name {name!r} belongs to DSPy's agents; use another one")
    if name in taken:
        raise ValueError(f"there is another {name!r}; a module that is imported twice registers twice")
    return name
