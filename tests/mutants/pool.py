"""Guards of the pool, removed one by one."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

POOL_TESTS = "tests/unit/worker/test_pool_model.py"
TOOLS = "tests/unit/worker/test_tools.py"

POOL = {
    "what was given back unstarted is held": Mutant(
        "worker/supervisor/link_state.py", " or lease.never_began:", ":", "tests/unit/worker/test_pool_held.py"
    ),
    "a condemned executor gets jobs": Mutant(
        "worker/supervisor/executors.py", "executor.state = ExecutorState.CONDEMNED", "pass", "tests/unit/worker"
    ),
    "a silent condemned executor has the whole grace": Mutant(
        "worker/supervisor/executors.py",
        "kill_ms = min(kill_ms, executor.beat_ms + context.settings.stall_ms)",
        "pass",
        "tests/unit/worker/test_pool_executors.py",
    ),
    "a pool does not back off": Mutant(
        "worker/supervisor/executors.py",
        "self._not_before_ms = context.now_ms + pause",
        "pass",
        "tests/unit/worker/test_pool_executors.py",
    ),
    "ready comes after released": Mutant(
        "worker/supervisor/work.py",
        "        self._link.tell_changes()\n        if lease.state is LeaseState.RELEASED:",
        "        if lease.state is LeaseState.RELEASED:",
        "tests/unit/worker/test_pool_jobs.py",
    ),
    "a second answer of a tool is taken": Mutant(
        "worker/executor/tool_channel.py", "if self._open.close(result.call):", "if True:", TOOLS
    ),
    "open tool calls are not sent again": Mutant(
        "worker/executor/tool_channel.py", "                self._send(call, left_ms)", "                pass", TOOLS
    ),
    "arguments of tools are not checked": Mutant(
        "worker/executor/tool_channel.py", "            if problems:", "            if False:", TOOLS
    ),
    "a schema's references go anywhere": Mutant(
        "worker/executor/tool_schema.py",
        "or reference not in self._definitions",
        "",
        "tests/unit/worker/test_tool_specs.py",
    ),
}
