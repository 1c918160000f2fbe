"""Inputs from a command line: `key=value`, `key=@file` and JSON, read with the program's types in mind. Pure."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from dspymq.cli.kinds import BYTES, TEXT, Kinds

MAX_FILE_BYTES: Final = 128 * 1024 * 1024

Read = Callable[[str], bytes]
"""Reads a named file; `-` is standard input."""


def read_file(name: str) -> bytes:
    """The content of a file, or of standard input for `-`. Raises click.UsageError."""
    try:
        if name == "-":
            return sys.stdin.buffer.read()
        return Path(name).expanduser().read_bytes()
    except OSError as error:
        raise click.UsageError(f"cannot read {name}: {error.strerror}") from None


def read_json_inputs(name: str, read: Read = read_file) -> dict[str, Any]:
    """The inputs in a JSON file (`--input`): an object from names to values. Raises click.UsageError."""
    where = "standard input" if name == "-" else name
    try:
        value = json.loads(read(name))
    except ValueError as error:
        raise click.UsageError(f"{where} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError(f'{where} must hold a JSON object such as {{"question": "..."}}')
    return value


def read_pairs(pairs: Sequence[str], kinds: Mapping[str, Kinds] | None, read: Read = read_file) -> dict[str, Any]:
    """The inputs of `key=value` arguments.

    `kinds` are the types of the program's inputs (None: unknown). A field that takes text gets the text as it stands;
    other values are read as JSON where they look like it. `@name` stands for the content of a file, `@@` for an `@`.
    Raises click.UsageError.
    """
    inputs: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{_shortened(pair)!r} is no input; inputs are written key=value")
        if name in inputs:
            raise click.UsageError(f'the input {name} is given twice; lists are written as JSON: {name}=\'["a", "b"]\'')
        kind = kinds.get(name) if kinds is not None else None
        if text.startswith("@@"):
            inputs[name] = read_value(name, text[1:], kind)
        elif text.startswith("@") and len(text) > 1:
            inputs[name] = _file_value(name, text[1:], kind, read)
        else:
            inputs[name] = read_value(name, text, kind)
    return inputs


def read_value(name: str, text: str, kind: Kinds | None) -> Any:
    """One value; `kind` None: of unknown type. Raises click.UsageError for broken JSON where only JSON fits."""
    if kind is not None:
        if TEXT in kind.types or text in kind.literals:
            return text
        if BYTES in kind.types:
            return text.encode()
        word = text.strip()
        if word in _PYTHON_WORDS:
            return _PYTHON_WORDS[word]
    stripped = text.strip()
    try:
        return json.loads(stripped, parse_constant=_refuse_constant)
    except ValueError as error:
        if kind is not None and not kind.literals and stripped[:1] in ("{", "["):
            raise click.UsageError(f"the value of {name} is not JSON: {error}") from None
        # The worker says, field by field, what it expected.
        return text


_PYTHON_WORDS: Final[dict[str, Any]] = {"True": True, "False": False, "None": None}


def _file_value(name: str, path: str, kind: Kinds | None, read: Read) -> Any:
    data = read(path)
    if len(data) > MAX_FILE_BYTES:
        raise click.UsageError(f"{path} has {len(data)} bytes; at most {MAX_FILE_BYTES} can be sent")
    if kind is not None and BYTES in kind.types and TEXT not in kind.types:
        return data
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not UTF-8 text, and {name} is no bytes field") from None
    # A file of unknown type is text: nobody asked for its content to be interpreted.
    return text if kind is None else read_value(name, text, kind)


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON value")


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
