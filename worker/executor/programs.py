"""Targets `MODULE[:NAME]` to the programs that a worker offers."""

import contextlib
import hashlib
import importlib
import inspect
import json
import logging
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import dspy

from dspymq.worker.executor import signatures, sources
from dspymq.worker.executor.signatures import Interface

log = logging.getLogger("dspymq.worker.programs")

MAX_NAME_CHARS: Final = 128
MAX_DOC_CHARS: Final = 4_000


class ProgramsError(Exception):
    """A target whose programs cannot be offered; `target` as it was given."""

    def __init__(self, target: str, problem: str) -> None:
        super().__init__(f"{target}: {problem}")
        self.target = target
        self.problem = problem


@dataclass(frozen=True)
class Program:
    """A DSPy module ready to run. One object serves all jobs at once; nothing in it changes with a job.

    `kind` is the kind of a spec, or the class of the module.
    """

    name: str
    module: Any
    revision: str
    interface: Interface
    is_async: bool
    doc: str
    kind: str = ""

    def description(self) -> dict[str, Any]:
        """What a client may know, for the body of `ready`: text, JSON Schemas (outputs None if unknown), and more.

        `streams` are the outputs whose text comes in chunks, None if that is not known.
        """
        is_known = self.interface.outputs is not None
        return {
            "description": self.doc[:MAX_DOC_CHARS],
            "inputs": self.interface.input_schema,
            "outputs": self.interface.output_schema,
            "kind": self.kind,
            "streams": sorted(self.interface.texts) if is_known else None,
        }


def load_programs(
    targets: Sequence[str],
    own_paths: Collection[str] = (),
    on_loaded: Callable[[str], None] | None = None,
    problems: dict[str, str] | None = None,
) -> dict[str, Program]:
    """Import every target and build its programs.

    `own_paths` are the directories whose loaded modules count as the programs' sources in their revision, besides
    each target's own package. `on_loaded` is called with each target when it was looked at.

    A target or program that fails leaves only itself out, and a clear line in `problems`, under its name. Raises
    ProgramsError for the first of them if nothing is left to offer, or if there are no `problems` to write to.
    """
    loader = _Loader(raises=problems is None)
    for target in targets:
        loader.take(target)
        if on_loaded is not None:
            on_loaded(target)
    digests = {module_name: sources.digest(module_name, own_paths) for _, module_name, _ in loader.found.values()}
    programs: dict[str, Program] = {}
    for name, (target, module_name, module) in loader.found.items():
        with loader.failing(f"{module_name}:{name}"):
            programs[name] = make_program(name, module, digests[module_name], target)
    if loader.first is not None and not programs:
        raise loader.first
    if problems is not None:
        problems |= loader.problems
    return programs


class _Loader:
    """Collects programs, and what is wrong with others."""

    def __init__(self, *, raises: bool) -> None:
        self.found: dict[str, tuple[str, str, Any]] = {}
        self.problems: dict[str, str] = {}
        self.first: ProgramsError | None = None
        self._raises = raises

    @contextlib.contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """Whatever fails meanwhile is a problem of `what`, and of nothing else."""
        try:
            yield
        except ProgramsError as error:
            if self._raises:
                raise
            self.first = self.first or error
            self.problems[what] = str(error)

    def take(self, target: str) -> None:
        """Import one, and keep what it exports."""
        module_name, _, name = target.partition(":")
        with self.failing(target):
            source = _import(target, module_name)
            exports = [name] if name else _exported(target, source)
            exported = len(self.found) + len(self.problems)
            for export in exports:
                with self.failing(f"{module_name}:{export}"):
                    module = _named(target, source, export) if name else _made(target, source, export)
                    self._keep(target, module_name, export, module)
            if len(self.found) + len(self.problems) == exported and not self._has(module_name):
                raise ProgramsError(target, "exports no dspy.Module and no factory of one")

    def _has(self, module_name: str) -> bool:
        return any(known == module_name for _, known, _ in self.found.values())

    def _keep(self, target: str, module_name: str, export: str, module: Any) -> None:
        if module is None:
            return
        _check_name(target, export)
        if export in self.found and self.found[export][2] is not module:
            raise ProgramsError(target, f"the program name {export!r} is already taken by {self.found[export][0]}")
        self.found[export] = (target, module_name, module)


def make_program(name: str, module: Any, sources: bytes = b"", target: str = "") -> Program:
    """A program from a dspy.Module. Raises ProgramsError if it can neither run on the loop nor in a thread."""
    where = target or name
    try:
        interface = interface_of(module)
    except Exception as error:
        raise ProgramsError(where, f"{name}: its signature cannot be read ({_short(error)})") from error
    is_own_class = type(module).__module__.partition(".")[0] != "dspy"
    doc = inspect.cleandoc(vars(type(module)).get("__doc__") or "") if is_own_class else ""
    return Program(
        name=name,
        module=module,
        revision=revision_of(module, sources),
        interface=interface,
        is_async=runs_async(module, where),
        doc=doc or _instructions(module),
        kind=type(module).__name__,
    )


def runs_async(module: Any, where: str = "") -> bool:
    """Whether `acall` does what a call does. hasattr is no answer: a class inherits the `aforward` of another program.

    The more derived of `forward` and `aforward` is what its author wrote; both in one class means both work. Not so in
    dspy.RLM, whose `aforward` waits for the interpreter without giving way: its own calls of the LM would never end.
    """
    if isinstance(module, dspy.RLM) and type(module).aforward is dspy.RLM.aforward:
        return False
    ranks = {}
    for method in ("forward", "aforward"):
        if method in vars(module):
            ranks[method] = -1
            continue
        for rank, cls in enumerate(type(module).__mro__):
            if method in vars(cls):
                ranks[method] = rank
                break
    if not ranks:
        raise ProgramsError(where, f"{type(module).__name__} has neither `forward` nor `aforward`")
    return "aforward" in ranks and ranks["aforward"] <= ranks.get("forward", sys.maxsize)


def interface_of(module: Any) -> Interface:
    """Inputs and outputs, from the module's signature, its parameters, or its single predictor."""
    own = getattr(module, "signature", None)
    own = own if _is_signature(own) else None
    predictors = module.predictors()
    inner = predictors[0].signature if len(predictors) == 1 else None
    call = _call_of(module)
    named = [
        parameter.name
        for parameter in call.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    is_dspys = type(module).__module__.partition(".")[0] == "dspy"
    # What DSPy's own modules take besides (RLM an interpreter) is for Python code, not for clients.
    if own is not None and (is_dspys or set(named) <= set(own.input_fields)):
        return signatures.of_signature(own)
    if not named and inner is not None:
        return signatures.of_signature(inner, is_exact=is_dspys)
    return signatures.of_call(call, signatures.resolved_hints(_method_of(module)), inner)


def revision_of(module: Any, sources: bytes) -> str:
    """32 hex digits over sources, state and DSPy's version: the same anywhere, another after any change."""
    digest = hashlib.sha256(f"dspy {dspy.__version__} {type(module).__qualname__}\0".encode())
    digest.update(sources)
    try:
        state = json.dumps(module.dump_state(), sort_keys=True, default=repr)
    except Exception:
        state = repr(module)
    digest.update(state.encode())
    return digest.hexdigest()[:32]


def _import(target: str, module_name: str) -> ModuleType:
    if not module_name or not all(part.isidentifier() for part in module_name.split(".")):
        raise ProgramsError(target, "is not MODULE or MODULE:NAME, such as myapp.programs or myapp.programs:qa")
    try:
        return importlib.import_module(module_name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ProgramsError(target, f"no module named {error.name}; is its folder on the path?") from error
        raise ProgramsError(target, f"importing it failed: {_short(error)}{_place(error)}") from error


def _exported(target: str, source: ModuleType) -> list[str]:
    """The names that may be programs."""
    listed = getattr(source, "__all__", None)
    names = list(listed) if listed is not None else [name for name in vars(source) if not name.startswith("_")]
    for name in names:
        if not hasattr(source, name):
            raise ProgramsError(target, f"__all__ names {name!r}, which does not exist")
    return names


def _made(target: str, source: ModuleType, name: str) -> Any:
    """The program under this name, None if it is none: a class only where no instance of just that class is there."""
    listed = getattr(source, "__all__", None)
    value = getattr(source, name)
    is_own = listed is not None or getattr(value, "__module__", None) == source.__name__
    if isinstance(value, dspy.Module) and not isinstance(value, type):
        return value
    if isinstance(value, type) and issubclass(value, dspy.Module):
        names = listed if listed is not None else [n for n in vars(source) if not n.startswith("_")]
        has_instance = any(type(vars(source).get(other)) is value for other in names)
        return _build(target, name, value) if is_own and not has_instance and _takes_nothing(value) else None
    if inspect.isfunction(value) and is_own and _takes_nothing(value):
        return _from_factory(target, name, value, is_listed=listed is not None)
    return None


def _from_factory(target: str, name: str, function: Any, *, is_listed: bool) -> Any:
    """What the factory makes, or None if it is not one.

    A function counts by its return annotation; without one only if __all__ lists it, since calling whatever a
    module happens to define could do anything.
    """
    returned = signatures.resolved_hints(function).get("return")
    if returned is None:
        if not is_listed or "return" in function.__annotations__:
            log.info("event=function_not_offered target=%s name=%s hint=annotate_its_return_type", target, name)
            return None
        made = _build(target, name, function)
        return made if isinstance(made, dspy.Module) else None
    if not (isinstance(returned, type) and issubclass(returned, dspy.Module)):
        return None
    made = _build(target, name, function)
    if not isinstance(made, dspy.Module):
        raise ProgramsError(target, f"{name}() returned {type(made).__name__}, not a dspy.Module")
    return made


def _named(target: str, source: ModuleType, name: str) -> Any:
    if not hasattr(source, name):
        offered = ", ".join(n for n, v in vars(source).items() if isinstance(v, dspy.Module)) or "none"
        raise ProgramsError(target, f"{source.__name__} has no {name!r}; its dspy.Module instances: {offered}")
    value = getattr(source, name)
    if isinstance(value, dspy.Module) and not isinstance(value, type):
        return value
    if not callable(value):
        raise ProgramsError(target, f"{name} is a {type(value).__name__}, not a dspy.Module or a factory of one")
    if not _takes_nothing(value):
        raise ProgramsError(target, f"{name} needs arguments; offer an instance or a factory without parameters")
    made = _build(target, name, value)
    if not isinstance(made, dspy.Module):
        raise ProgramsError(target, f"{name}() returned {type(made).__name__}, not a dspy.Module")
    return made


def _build(target: str, name: str, factory: Any) -> Any:
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise ProgramsError(target, f"{name}() failed: {_short(error)}{_place(error)}") from error


def _takes_nothing(function: Any) -> bool:
    # A Module class is called through its metaclass, which takes anything and passes it on.
    is_class = isinstance(function, type)
    try:
        call = inspect.signature(function.__init__ if is_class else function)
    except (TypeError, ValueError):
        return False
    parameters = list(call.parameters.values())[1 if is_class else 0 :]
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _check_name(target: str, name: str) -> None:
    if name.startswith("_") or not name.isascii() or len(name) > MAX_NAME_CHARS:
        raise ProgramsError(target, f"{name!r} is no program name: ASCII, not starting with an underscore")


def _method_of(module: Any) -> Any:
    """The function that runs. Read from the class: Module warns when `forward` is looked up on an instance."""
    method = "aforward" if runs_async(module) else "forward"
    if method in vars(module):
        return vars(module)[method]
    return next(vars(cls)[method] for cls in type(module).__mro__ if method in vars(cls))


def _call_of(module: Any) -> inspect.Signature:
    call = inspect.signature(_method_of(module))
    parameters = list(call.parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    return call.replace(parameters=parameters)


def _is_signature(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, dspy.Signature)


def _instructions(module: Any) -> str:
    predictors = module.predictors()
    return str(predictors[0].signature.instructions) if len(predictors) == 1 else ""


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def _place(error: BaseException) -> str:
    """Where in the program's own files it happened."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    own = [f for f in frames if "site-packages" not in f.filename and f.filename != __file__]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
