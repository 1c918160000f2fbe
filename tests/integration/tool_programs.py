"""Programs that call the tools of whoever runs them: `dspymq worker tests.integration.tool_programs`."""

from typing import Any

import dspy

from dspymq.worker.executor.tools import ToolError, client_tools


class Agent(dspy.Module):  # type: ignore[misc]
    """A ReAct of its own, on the event loop."""

    async def aforward(self, question: str) -> Any:
        return await dspy.ReAct("question -> answer", tools=client_tools()).acall(question=question)


class ThreadAgent(dspy.Module):  # type: ignore[misc]
    """The same in a thread."""

    def forward(self, question: str) -> Any:
        return dspy.ReAct("question -> answer", tools=client_tools())(question=question)


class Ask(dspy.Module):  # type: ignore[misc]
    """Calls each of the client's tools once, with the same arguments, and gives back values or error texts."""

    async def aforward(self, args: dict) -> Any:  # type: ignore[type-arg]
        got = []
        for tool in client_tools():
            try:
                got.append(await tool.acall(**args))
            except ToolError as error:
                got.append(f"error: {error}")
        return dspy.Prediction(got=got)


class AskInThread(dspy.Module):  # type: ignore[misc]
    """The same in a thread."""

    def forward(self, args: dict) -> Any:  # type: ignore[type-arg]
        return dspy.Prediction(got=[tool(**args) for tool in client_tools()])


agent, thread_agent, ask, ask_in_thread = Agent(), ThreadAgent(), Ask(), AskInThread()
__all__ = ["agent", "ask", "ask_in_thread", "thread_agent"]
