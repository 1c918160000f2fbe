"""Checks SPEC.md by itself: rule numbers, references, links, its worked session, and that it names no code."""

from __future__ import annotations

import ast
import functools
import itertools
import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgpack

from dspymq.protocol import ProtocolError, client_codec, encode, worker_codec
from tests.conformance import spec_session
from tests.conformance.spec_text import ROOT, Spec

_REFERENCE: Final = re.compile(r"\bR-(\d+\.\d+)\b")
_SECTION: Final = re.compile(r"\bsections? ((?:\d+(?:\.\d+)*)(?:(?:, | and | to )\d+(?:\.\d+)*)*)", re.IGNORECASE)
_STEP: Final = re.compile(r"^#(\d+)  ([CBW] > [CBW])  (\w+)$")
_FRAME: Final = re.compile(r"^    (?:\[(\d)\]|   ) ((?:[0-9a-f]{2} ?)+)$")
_CAMEL: Final = re.compile(r"^[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)+$")
_FOLDERS: Final = ("bench", "broker", "cli", "clients", "examples", "protocol", "transport", "worker")


class Shown(NamedTuple):
    """A step of the session as SPEC.md shows it."""

    way: str
    kind: str
    frames: list[bytes]
    header: str
    body: str


def check_rules(spec: Spec) -> list[str]:
    """Numbers are unique and rise; every rule is well formed; every number that is referred to exists."""
    rules = spec.rules
    numbers = [rule.number for rule in rules]
    problems = [f"R-{number} is there twice" for number in sorted(set(numbers)) if numbers.count(number) > 1]
    for before, after in itertools.pairwise(numbers):
        if _key(after) <= _key(before):
            problems.append(f"R-{after} comes after R-{before}")
    for rule in rules:
        if rule.roles not in ("C", "W", "B", "C W", "C B", "W B", "B W", "C W B"):
            problems.append(f"R-{rule.number} has the roles ({rule.roles})")
        where = f"## {rule.number.split('.')[0]} "
        if f"\n{where}" not in spec.text:
            problems.append(f"R-{rule.number} has no section {where}")
    bold = re.findall(r"\*\*R-(\d+\.\d+)\*\*", spec.text)
    problems += [f"R-{number} is bold, but no rule of its own" for number in bold if number not in numbers]
    problems += missing_rules(spec, spec.text, "SPEC.md")
    return problems


def missing_rules(spec: Spec, text: str, where: str) -> list[str]:
    """Rule numbers that this text refers to and SPEC.md does not have."""
    known = {rule.number for rule in spec.rules}
    return [f"{where} refers to R-{n}" for n in sorted(set(_REFERENCE.findall(text)) - known, key=_key)]


def check_sections(spec: Spec) -> list[str]:
    """Sections that SPEC.md and the docstrings of the code refer to, and links inside of SPEC.md."""
    numbers = {match[0] for heading in spec.headings if (match := re.match(r"\d+(\.\d+)*", heading))}
    problems = [f"SPEC.md refers to section {n}" for n in _sections(spec.text) if n not in numbers]
    for path, text in _sources():
        for match in re.finditer(r"\bSPEC (sections? [^)\n:]*)", text):
            problems += [f"{path} refers to SPEC section {n}" for n in _sections(match[1]) if n not in numbers]
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in spec.headings}
    links = re.findall(r"\]\(#([^)]*)\)", spec.text)
    return problems + [f"the link #{slug} leads nowhere" for slug in links if slug not in slugs]


def check_names(spec: Spec) -> list[str]:
    """SPEC.md is for strangers: no class, file or module of this code base, no path of any workplace."""
    names: set[str] = set()
    for path, text in _sources():
        names.add(path.rpartition("/")[2])
        names |= {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)}
    found = {name for name in names if (_CAMEL.match(name) or name.endswith(".py")) and name in spec.text}
    found |= set(re.findall(r"dspymq\.\w+|\bmsgspec\b|PROTOCOL\.md|DESIGN\.md|(?<=[\s`(])/[a-z]\w*", spec.text))
    return [f"SPEC.md names {name}" for name in sorted(found)]


def check_session(spec: Spec) -> list[str]:
    """The worked session decodes to what it says, encodes back, and is what the broker's core really does."""
    shown = dict(_shown(spec))
    played = dict(enumerate(spec_session.play(), 1))
    if shown.keys() != played.keys():
        return [f"SPEC.md shows the steps {sorted(shown)}, the session has {sorted(played)}"]
    problems = []
    for number, step in shown.items():
        where = f"#{number} {step.way} {step.kind}"
        problems += [f"{where}: {problem}" for problem in _check_step(step)]
        if tuple(step.frames) != played[number].frames or step.way != played[number].way:
            problems.append(f"{where}: the code gives {played[number].way} {played[number].header}")
    for frame in (played[1].frames[1], played[9].frames[1], played[9].frames[2]):
        if spec_session.annotate(frame) not in spec.text:
            problems.append(f"the annotated octets of {frame[:8].hex(' ')} ... are not those of the session")
    return problems


def check_zmtp(spec: Spec) -> list[str]:
    """The greeting, READY and the framed `ping` of appendix A."""
    greeting, ready, ping = zmtp_octets(spec)
    problems = []
    if len(greeting) != 64 or greeting[0] != 0xFF or greeting[9:16] != b"\x7f\x03\x01NULL":
        problems.append("the greeting is not that of ZMTP 3.1 with NULL")
    if ready[:2] != bytes([4, len(ready) - 2]) or not ready.startswith(b"\x05READY\x0bSocket-Type", 2):
        problems.append("READY is not a command of its own length")
    tag, header = spec_session.play()[2].frames
    if ping != b"\x01\x04" + tag + bytes([0, len(header)]) + header:
        problems.append("the ping of appendix A is not #3 of the session")
    return problems


def zmtp_octets(spec: Spec) -> tuple[bytes, bytes, bytes]:
    """The greeting, the READY command and the framed `ping` that appendix A prints."""
    found = {}
    for block in spec.blocks("text"):
        match = re.fullmatch(r"(greeting|ready|ping) +((?:[0-9a-f]{2}\s*)+)", block)
        if match:
            found[match[1]] = bytes.fromhex(match[2])
    return found["greeting"], found["ready"], found["ping"]


def _check_step(step: Shown) -> Iterator[str]:
    codec = client_codec() if "C" in step.way else worker_codec()
    try:
        message, body = codec.decode(step.frames)
    except ProtocolError as problem:
        yield f"does not decode: {problem.message}"
        return
    if encode(message, body) != step.frames:
        yield "does not encode back to the same octets"
    header = msgpack.unpackb(step.frames[1])
    if header["t"] != step.kind:
        yield f"is a {header['t']}"
    if json.loads(step.header) != header:
        yield f"the header is {json.dumps(header)}"
    if (json.loads(step.body) if step.body else {}) != (msgpack.unpackb(body) if body else {}):
        yield "the body is another"


def _shown(spec: Spec) -> Iterator[tuple[int, Shown]]:
    number = 0
    step: Shown | None = None
    for line in spec.lines:
        head = _STEP.match(line)
        frame = _FRAME.match(line)
        if head:
            if step is not None:
                yield number, step
            number, step = int(head[1]), Shown(head[2], head[3], [], "", "")
        elif step is None:
            continue
        elif frame and frame[1]:
            step.frames.append(bytes.fromhex(frame[2]))
        elif frame:
            step.frames[-1] += bytes.fromhex(frame[2])
        elif line.startswith("    = "):
            step = step._replace(header=line[6:])
        elif line.startswith("    + "):
            step = step._replace(body=line[6:])
        elif line.startswith("```"):
            yield number, step
            step = None


def _sections(text: str) -> list[str]:
    return [number for match in _SECTION.finditer(text) for number in re.findall(r"\d+(?:\.\d+)*", match[1])]


@functools.cache
def _sources() -> list[tuple[str, str]]:
    """Path and text of every module of the code base."""
    paths = [path for folder in _FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in paths]


def _key(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split(".")))
