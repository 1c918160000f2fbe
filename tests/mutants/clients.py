"""Guards of the Python client, removed one by one."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CALLS = "tests/unit/client/test_tool_calls.py"
CORE_TOOLS = "tests/unit/client/test_core_tools.py"

CLIENTS = {
    "a refused job forgets where it was before": Mutant(
        "clients/python/jobs.py",
        "job.last_epoch, job.other_epoch = job.before_epochs",
        "pass",
        "tests/unit/client",
    ),
    "a call of another content is answered as the same": Mutant(
        "clients/python/tool_calls.py", "or known.content != _content(name, body)", "", CALLS
    ),
    "a tool call of an earlier attempt runs": Mutant(
        "clients/python/tool_calls.py", "if attempt < self._attempt and not self._anew:", "if False:", CALLS
    ),
    "an answered tool call is not answered again": Mutant(
        "clients/python/jobs.py",
        "if isinstance(known, Answer):\n            self._answer_tool(job.id, message.attempt, message.call, known)",
        "if isinstance(known, Answer):\n            pass",
        CORE_TOOLS,
    ),
    "a tool's answer of any size is sent": Mutant(
        "clients/python/jobs.py", "if len(answer.body) > limit:", "if False:", CORE_TOOLS
    ),
    "any number of tools run at once": Mutant(
        "clients/python/tool_runner.py", "await self._room.acquire()", "pass", "tests/unit/client/test_tool_runner.py"
    ),
}
