"""Imported once by the fork server (or in a spawned executor): dspy and all programs, validated, ready to be forked.

Reads the environment (dspymq.worker.executor_spec); without a spec there nothing happens. What went wrong is kept
for the executors to report, since an exception here would only end the fork server. Nothing connects anywhere.
"""

import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from dspymq.worker.executor import logs, process
from dspymq.worker.executor_spec import STDERR_VARIABLE, VARIABLE, ExecutorSpec, from_environment

_LAZY_MODULES: Final = (
    "anyio",
    "dspy",
    "dspy.clients.execution",
    "dspy.clients.model_metadata",
    "dspymq.worker.executor.serve",
    "dspymq.worker.pipe",
)
"""What a first job would otherwise import in every executor anew."""


@dataclass(frozen=True)
class State:
    """The outcome of loading. `pid` is the process that loaded; in a forked executor it is its parent.

    `problems` are of targets and programs that are left out; `source_dirs` are the directories of the programs' own
    modules. `failure` is one line for people, or None; `threads` are more than one if the import of `thread_target` (""
    if it was none of them) started some: such a process must not be forked.
    """

    spec: ExecutorSpec
    pid: int
    programs: Mapping[str, Any] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    source_dirs: tuple[str, ...] = ()
    failure: str | None = None
    failed_target: str | None = None
    threads: int = 1
    thread_target: str | None = None


def load(spec: ExecutorSpec) -> State:
    """Import dspy and the targets of this spec, and check its profiles. Never raises."""
    if spec.cwd is not None:
        try:
            os.chdir(spec.cwd)
        except OSError as error:
            return State(spec, os.getpid(), failure=f"cannot enter {spec.cwd}: {error.strerror}")
    for path in reversed([*([os.getcwd()] if spec.cwd is not None else []), *spec.paths]):
        if path not in sys.path:
            sys.path.insert(0, path)
    try:
        for name in _LAZY_MODULES:
            importlib.import_module(name)
    except ImportError as error:
        return State(spec, os.getpid(), failure=f"{error}; install the extra: pip install 'dspymq[worker]'")
    return _load_programs(spec)


def _load_programs(spec: ExecutorSpec) -> State:
    import dspy

    from dspymq.worker.executor import sources
    from dspymq.worker.executor.lms import check_profile
    from dspymq.worker.executor.programs import ProgramsError, load_programs
    from dspymq.worker.profiles import ProfileError

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    culprit: list[str] = []

    def look(target: str) -> None:
        if not culprit and process.thread_count() > 1:
            culprit.append(target)

    look("")
    own_paths = [*spec.paths, *([os.getcwd()] if spec.cwd is not None else [])]
    problems: dict[str, str] = {}
    sys.dont_write_bytecode |= spec.fresh
    try:
        programs = load_programs(spec.targets, own_paths, look, problems)
        for profile in spec.profiles:
            check_profile(profile)
    except ProgramsError as error:
        return State(spec, os.getpid(), failure=str(error), failed_target=error.target)
    except ProfileError as error:
        return State(spec, os.getpid(), failure=str(error), failed_target=error.key)
    except Exception as error:
        return State(spec, os.getpid(), failure=f"loading failed: {type(error).__name__}: {error}"[:1000])
    look("")
    gc.collect()
    gc.freeze()
    return State(
        spec,
        os.getpid(),
        programs=programs,
        problems=problems,
        source_dirs=tuple(sources.directories([target.partition(":")[0] for target in spec.targets], own_paths)),
        threads=process.thread_count(),
        thread_target=culprit[0] if culprit else None,
    )


def _from_environment() -> State | None:
    try:
        spec = from_environment(os.environ)
    except (msgspec.MsgspecError, UnicodeError) as error:
        return State(ExecutorSpec(), os.getpid(), failure=f"{VARIABLE} is broken: {error}")
    if spec is None:
        return None
    os.environ.pop(VARIABLE, None)
    process.set_signals()
    # A crash in C says where it was, on stderr.
    with contextlib.suppress(Exception):
        faulthandler.enable()
    process.die_with_parent(spec.parent_pid)
    # A program may have closed stderr: a line that cannot be written must not become an error of a job.
    logging.raiseExceptions = False
    if not logging.getLogger().handlers:
        logs.set_up(spec.log_level, spec.targets, as_json=spec.log_json)
    with process.stderr_to(os.environ.pop(STDERR_VARIABLE, None)):
        return load(spec)


STATE: Final = _from_environment()
"""What this process, or the one it was forked from, has loaded; None outside of executors."""
