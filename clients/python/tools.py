"""Tools: functions of the caller that a program on a worker may call while its job runs (SPEC section 9.6)."""

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from dspymq import exceptions
from dspymq.plain import to_plain
from dspymq.protocol import body as bodies
from dspymq.protocol.errors import ProtocolError

MAX_TOOLS: Final = 64
MAX_DESCRIPTION_CHARS: Final = 4_096
RESERVED_NAMES: Final = frozenset({"finish"})
"""DSPy's own."""

_REFERENCE: Final = "#/$defs/"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_FIX: Final = "annotate it with a type that has a JSON form, or give `parameters`: Tool(name, fn, description, {...})"


class Tool:
    """A function that programs may call: `Tool("weather", fn)`, or just the function where a Tool is taken.

    `name`: 1 to 64 ASCII letters, digits, `_` or `-`. `fn`: called with keyword arguments; a coroutine function is
    awaited on the client's event loop, any other function runs in a thread of its own. What it returns must have a
    msgpack form (dataclasses, pydantic models, dates and the like are made plain). What it raises is told to the
    program, and so to its model, by type and text, without a traceback.

    `description` (for the model; default: the docstring) and `parameters` (a JSON Schema of an object; default: from
    the annotations) say what the model must know. Annotations may be of any type that msgspec knows, and pydantic
    models, and `Annotated[str, "what it is"]`; the function then gets its arguments in these types. With `parameters`
    given it gets them as they came: plain data.

    `timeout_s` bounds the program's wait for one call; None: as long as the job has.

    Raises InvalidArgument `invalid_tools`.
    """

    __slots__ = ("_arguments", "_spec", "description", "fn", "is_async", "name", "parameters", "timeout_s")

    def __init__(
        self,
        name: str,
        fn: Callable[..., Any],
        description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> None:
        if not isinstance(name, str) or not _NAME.match(name):
            raise _wrong(name, "its name must be 1 to 64 ASCII letters, digits, `_` or `-`; use Tool(name, fn)")
        if name in RESERVED_NAMES:
            raise _wrong(name, "this name belongs to DSPy; use another one: Tool(name, fn)")
        if not callable(fn):
            raise _wrong(name, f"a {type(fn).__name__} cannot be called")
        if description is None:
            description = (inspect.getdoc(_whole(fn)) or "")[:MAX_DESCRIPTION_CHARS]
        if len(description) > MAX_DESCRIPTION_CHARS:
            raise _wrong(name, f"its description is longer than {MAX_DESCRIPTION_CHARS} characters")
        if timeout_s is not None and not (isinstance(timeout_s, int | float) and 0 < timeout_s < 2**43):
            raise _wrong(name, f"`timeout_s` must be seconds above 0, not {timeout_s!r}")
        self.name = name
        self.fn = fn
        self.description = description
        self.timeout_s = timeout_s
        self.is_async = any(map(inspect.iscoroutinefunction, (fn, _whole(fn), type(fn).__call__)))
        self._arguments = _Arguments(name, fn) if parameters is None else None
        self.parameters: dict[str, Any] = self._arguments.schema if self._arguments else dict(parameters or {})
        self._spec = self._make_spec()

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"

    @property
    def spec(self) -> dict[str, Any]:
        """Its entry in the `tools` of a body."""
        return self._spec

    def arguments(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """What `fn` is called with. Raises ValueError, in words for the model, if they do not fit."""
        return dict(args) if self._arguments is None else self._arguments.convert(args)

    def _make_spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"name": self.name, "description": self.description, "parameters": self.parameters}
        if self.timeout_s is not None:
            spec["timeout_ms"] = max(1, round(self.timeout_s * 1_000))
        try:
            bodies.encode(tools=spec)
        except ProtocolError as problem:
            raise _wrong(self.name, f"its `parameters` are no JSON Schema: {problem.message}") from None
        return spec


def as_tools(tools: Iterable[Tool | Callable[..., Any]] | None) -> tuple[Tool, ...]:
    """Each as a Tool. Raises InvalidArgument `invalid_tools`."""
    made: dict[str, Tool] = {}
    if tools is not None and (isinstance(tools, str | Mapping) or not isinstance(tools, Iterable)):
        raise exceptions.InvalidArgument(f"`tools` is a list, not a {type(tools).__name__}", reason="invalid_tools")
    for one in tools or ():
        if not isinstance(one, Tool) and not callable(one):
            raise _wrong(one, "neither a function nor a Tool")
        tool = one if isinstance(one, Tool) else Tool(getattr(one, "__name__", repr(one)), one)
        if tool.name in made:
            raise _wrong(tool.name, "there is another tool of this name; use Tool(name, fn)")
        made[tool.name] = tool
    if len(made) > MAX_TOOLS:
        raise exceptions.InvalidArgument(f"{len(made)} tools; the limit is {MAX_TOOLS}", reason="invalid_tools")
    return tuple(made.values())


class _Arguments:
    """The parameters of a function: their JSON Schema, and the way from plain data to their types."""

    def __init__(self, tool: str, fn: Callable[..., Any]) -> None:
        self._names: list[str] = []
        self._is_open = False
        fields: list[Any] = []
        extras: dict[str, dict[str, Any]] = {}
        hints = _hints(tool, fn)
        for name, parameter in _signature(tool, fn).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                self._is_open = True
                continue
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                raise _wrong(tool, f"`{name}` cannot be given by name; {_FIX}")
            annotation = hints.get(name, Any)
            if parameter.default is None:
                annotation = annotation | None
            self._names.append(name)
            extras[name] = _extra(annotation, parameter.default)
            fields.append((name, annotation) if parameter.default is parameter.empty else (name, annotation, None))
        try:
            self._struct = msgspec.defstruct("Arguments", fields, forbid_unknown_fields=not self._is_open, kw_only=True)
            self.schema = self._make_schema(extras)
        except (TypeError, ValueError, NotImplementedError) as error:
            problem = " ".join(str(error).split())[:200]
            raise _wrong(tool, f"its parameters have no JSON Schema ({problem}); {_FIX}") from None

    def convert(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments in the types of the annotations. Raises ValueError."""
        try:
            try:
                made = msgspec.convert(dict(args), self._struct, dec_hook=_from_plain)
            except msgspec.ValidationError:
                # Whole floats for integers, and what else a model or another language writes instead.
                made = msgspec.convert(dict(args), self._struct, dec_hook=_from_plain, strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None
        found = {name: getattr(made, name) for name in self._names if name in args}
        if self._is_open:
            found |= {name: value for name, value in args.items() if name not in found}
        return found

    def _make_schema(self, extras: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        (own,), parts = msgspec.json.schema_components(
            (self._struct,), schema_hook=_schema_of, ref_template=_REFERENCE + "{name}"
        )
        found = parts.pop(own["$ref"].removeprefix(_REFERENCE))
        properties = {name: {**one, **extras[name]} for name, one in found["properties"].items()}
        for name, one in properties.items():
            if "default" not in extras[name]:
                one.pop("default", None)
        schema: dict[str, Any] = {"type": "object", "properties": properties, "required": found.get("required", [])}
        if self._is_open:
            schema["additionalProperties"] = True
        definitions = dict(parts)
        for part in (schema, *parts.values()):
            _collect(part, definitions)
        flat: dict[str, Any] = _without_definitions(schema)
        return {**flat, "$defs": _without_definitions(definitions)} if definitions else flat


def _signature(tool: str, fn: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):
        raise _wrong(tool, f"its parameters cannot be read; {_FIX}") from None


def _hints(tool: str, fn: Callable[..., Any]) -> dict[str, Any]:
    target: Any = inspect.unwrap(_whole(fn))
    if not inspect.isroutine(target) and not inspect.isclass(target):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception as error:
        raise _wrong(tool, f"its annotations cannot be read ({error}); {_FIX}") from None


def _extra(annotation: Any, default: Any) -> dict[str, Any]:
    """What a parameter says beside its type: a text in Annotated, and a default that has a plain form."""
    extra: dict[str, Any] = {}
    for note in getattr(annotation, "__metadata__", ()):
        text = note if isinstance(note, str) else getattr(note, "description", None)
        if isinstance(text, str):
            extra["description"] = text
    if default is not inspect.Parameter.empty and default is not None:
        try:
            plain = to_plain(default)
            bodies.encode(default=plain)
            extra["default"] = plain
        except (ProtocolError, RecursionError):
            pass
    return extra


def _schema_of(kind: Any) -> dict[str, Any]:
    make = getattr(kind, "model_json_schema", None)
    if not callable(make):
        raise NotImplementedError(f"type {getattr(kind, '__name__', kind)} is not supported")
    schema: dict[str, Any] = make()
    return schema


def _from_plain(kind: Any, value: Any) -> Any:
    make = getattr(kind, "model_validate", None)
    if not callable(make):
        raise NotImplementedError(kind)
    return make(value)


def _collect(value: Any, definitions: dict[str, Any]) -> None:
    """Add the `$defs` that stand anywhere inside, as pydantic writes them: `#/$defs/...` counts from the top."""
    if isinstance(value, dict):
        for name, one in value.get("$defs", {}).items():
            if definitions.setdefault(name, one) != one:
                raise TypeError(f"two types are named {name}")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _collect(one, definitions)


def _without_definitions(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_definitions(one) for key, one in value.items() if key != "$defs"}
    return [_without_definitions(one) for one in value] if isinstance(value, list) else value


def _whole(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function of which this is a functools.partial, if it is one."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _wrong(tool: Any, problem: str) -> exceptions.InvalidArgument:
    return exceptions.InvalidArgument(f"tool {tool!r}: {problem}"[:1_000], reason="invalid_tools")
