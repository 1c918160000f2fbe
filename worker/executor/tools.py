"""The tools that a job's client offers, for programs: `client_tools()` gives them as `dspy.Tool`s.

    class Agent(dspy.Module):
        async def aforward(self, question: str):
            agent = dspy.ReAct("question -> answer", tools=client_tools())
            return await agent.acall(question=question)

They run at the client, not here. A program on the event loop awaits them (`tool.acall`), a program in a thread calls
them. What goes wrong raises `ToolError`. Outside of jobs, and in a job whose client offers none, there are none.
"""

from typing import Any

import dspy
from dspy.dsp.utils.settings import settings
from dspy.utils.callback import with_callbacks

from dspymq.worker.executor.context import SETTING, JobContext
from dspymq.worker.executor.tool_channel import ToolChannel, ToolError
from dspymq.worker.executor.tool_specs import Toolset, ToolSpec

__all__ = ["ClientTool", "ToolError", "client_tools"]


def client_tools() -> list[dspy.Tool]:
    """The tools of the job that runs here, bound to it, from any thread that has DSPy's settings; [] if none."""
    job = settings.get(SETTING)
    if not isinstance(job, JobContext) or job.tools is None:
        return []
    return [ClientTool(spec, job) for spec in job.tools.toolset.specs]


def unbound_tools(toolset: Toolset) -> list[dspy.Tool]:
    """Tools that belong to whichever job calls them, for programs that jobs with equal tools share."""
    return [ClientTool(spec, None) for spec in toolset.specs]


class ClientTool(dspy.Tool):  # type: ignore[misc]
    """A `dspy.Tool` whose function is at the client. Arguments are checked here; DSPy would let some be missing."""

    def __init__(self, spec: ToolSpec, job: JobContext | None) -> None:
        parameters = spec.parameters
        super().__init__(
            RemoteFunction(spec, job),
            name=spec.name,
            desc=spec.description,
            args=dict(parameters.properties),
            arg_types={},
        )

    # `self` is positional only, and what the callbacks see one map: a tool may have arguments of any name.

    def __call__(self, /, **kwargs: Any) -> Any:
        """Ask the client, from a program in a thread. Raises ToolError."""
        return self._ask(kwargs)

    async def acall(self, /, **kwargs: Any) -> Any:
        """Ask the client, from a program on the event loop. Raises ToolError."""
        return await self._aask(kwargs)

    @with_callbacks  # type: ignore[untyped-decorator]
    def _ask(self, kwargs: dict[str, Any]) -> Any:
        return self.func.from_thread(kwargs)

    @with_callbacks  # type: ignore[untyped-decorator]
    async def _aask(self, kwargs: dict[str, Any]) -> Any:
        return await self.func(**kwargs)

    def format_as_litellm_function_call(self) -> dict[str, Any]:
        """The tool for models that call functions themselves, with what is required as the client said it."""
        schema = self.func.spec.parameters.schema
        return {"type": "function", "function": {"name": self.name, "description": self.desc, "parameters": schema}}

    def __str__(self) -> str:
        required = self.func.spec.parameters.required
        text = str(super().__str__())
        return f"{text} Required: {', '.join(required)}." if required else text


class RemoteFunction:
    """The asynchronous function behind a ClientTool; without a job, that of the job that calls it."""

    def __init__(self, spec: ToolSpec, job: JobContext | None) -> None:
        self.spec = spec
        self._job = job
        self.__name__ = spec.name
        self.__doc__ = spec.description

    async def __call__(self, /, **kwargs: Any) -> Any:
        job, channel = self._caller()
        return await channel.call_from_anywhere(job, self.spec, kwargs)

    def from_thread(self, kwargs: dict[str, Any]) -> Any:
        """The same for synchronous code. Raises ToolError, JobStopped."""
        job, channel = self._caller()
        return channel.call_from_thread(job, self.spec, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "RemoteFunction":
        # DSPy copies modules with all they hold; a job cannot be copied.
        return self

    def _caller(self) -> tuple[JobContext, ToolChannel]:
        job = self._job or settings.get(SETTING)
        if not isinstance(job, JobContext) or job.tools is None:
            raise ToolError(f"the tool `{self.spec.name}` was called outside of its job")
        return job, job.tools
