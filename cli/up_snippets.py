"""One call of one program, as it is written in each language that has a client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from dspymq.broker.config import DEFAULT_CLIENTS


class Snippet(NamedTuple):
    """`code` in a `language`, to be shown under a title."""

    language: str
    code: str


def snippets(address: str, program: str, inputs: Mapping[str, str]) -> list[Snippet]:
    """The same call in a shell, Python, Elixir and Node, to the broker at this address; `inputs` are texts."""
    return [
        Snippet("a shell", _shell(address, program, inputs)),
        Snippet("Python", _python(address, program, inputs)),
        Snippet("Elixir", _elixir(address, program, inputs)),
        Snippet("Node", _node(address, program, inputs)),
    ]


def _shell(address: str, program: str, inputs: Mapping[str, str]) -> str:
    broker = "" if address == DEFAULT_CLIENTS else f" --broker {address}"
    pairs = " ".join(f'{name}="{value}"' for name, value in inputs.items())
    return f"dspymq call{broker} {json.dumps(program) if '->' in program else program} {pairs}"


def _python(address: str, program: str, inputs: Mapping[str, str]) -> str:
    argument = "" if address == DEFAULT_CLIENTS else json.dumps(address)
    keywords = ", ".join(f"{name}={json.dumps(value)}" for name, value in inputs.items())
    return (
        "from dspymq import Client\n"
        f"with Client({argument}) as client:\n"
        f"    print(client.call({json.dumps(program)}, {keywords}))"
    )


def _elixir(address: str, program: str, inputs: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{name}: {json.dumps(value)}" for name, value in inputs.items())
    return (
        f"{{:ok, client}} = Dspymq.start_link(brokers: {json.dumps(address)})\n"
        f"IO.inspect(Dspymq.call!(client, {json.dumps(program)}, %{{{pairs}}}).outputs)"
    )


def _node(address: str, program: str, inputs: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{name}: {json.dumps(value)}" for name, value in inputs.items())
    return (
        'import { Client } from "dspymq";\n'
        f"const client = new Client({{ addresses: {json.dumps(address)} }});\n"
        f"console.log((await client.call({json.dumps(program)}, {{ {pairs} }})).outputs);\n"
        "await client.close();"
    )
