"""protocol/vectors against the codec, and the transcripts of brokers against the core in virtual time."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgpack
import msgspec
import pytest

from dspymq.conformance.engine import Engine
from dspymq.conformance.matching import frame
from dspymq.conformance.vectors import VECTORS, load
from dspymq.protocol import (
    ProtocolError,
    client_codec,
    client_messages,
    encode,
    lease_id,
    uuid7,
    worker_codec,
    worker_messages,
)
from dspymq.protocol.ids import Id
from tests.conformance import make_vectors
from tests.conformance.vector_cases import BROKER_TRANSCRIPTS, INVALID, UNREADABLE
from tests.conformance.vector_virtual import VirtualBroker, digest

CODECS: dict[str, Any] = {"clients": client_codec(), "workers": worker_codec()}
UNIONS: dict[str, Any] = {"clients": client_messages.Message, "workers": worker_messages.Message}
MESSAGES = load("encodings.json")["messages"]


def test_the_files_are_what_the_generators_make() -> None:
    made = dict(make_vectors.files())
    there = {path: path.read_text("utf-8") for path in VECTORS.rglob("*.json")}
    assert sorted(there) == sorted(made)
    stale = [path.name for path, text in made.items() if there[path] != text]
    assert stale == [], "run python -m tests.conformance.make_vectors"


def test_every_field_of_every_message_is_there() -> None:
    said: dict[tuple[str, str], set[str]] = {(row["endpoint"], row["fields"]["t"]): set() for row in MESSAGES}
    for row in MESSAGES:
        said[row["endpoint"], row["fields"]["t"]] |= row["fields"].keys() - {"t"}
    for endpoint, union in UNIONS.items():
        for struct in get_args(union):
            tag = struct.__struct_config__.tag
            assert said.pop((endpoint, tag)) == set(struct.__struct_fields__), f"{tag} at the {endpoint}' endpoint"
    assert said == {}


@pytest.mark.parametrize("row", MESSAGES, ids=lambda row: row["name"])
def test_every_legal_encoding_is_read_as_the_same_message(row: dict[str, Any]) -> None:
    body = row["body"]
    for each in row["encodings"]:
        frames = [b"DJP1", bytes.fromhex(each["header"])]
        if "body" in each:
            frames.append(bytes.fromhex(each["body"]))
        message, octets = CODECS[row["endpoint"]].decode(frames)
        assert _fields(message) == {**row["fields"], **row["defaults"]}, each["note"]
        assert (msgpack.unpackb(octets) if octets else None) == body, each["note"]
    written = msgpack.unpackb(encode(message, octets)[1])
    assert row["fields"].items() <= written.items()
    assert {**row["defaults"], **written} == {**row["defaults"], **row["fields"]}


def _fields(message: Any) -> dict[str, Any]:
    """A message's fields, those that have their defaults too, as JSON has them."""
    found = {"t": message.__struct_config__.tag}
    for name in message.__struct_fields__:
        found[name] = msgspec.to_builtins(getattr(message, name))
    return found


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_invalid_gives_its_reason_in_the_codec(case: dict[str, Any]) -> None:
    frames, answer = [frame(each) for each in case["frames"]], case["answer"]
    for endpoint in case["endpoints"]:
        if answer["reason"] == "wrong_direction":
            continue  # no matter of the codec
        with pytest.raises(ProtocolError) as caught:
            CODECS[endpoint].decode(frames)
        problem = caught.value
        said = {name: getattr(problem, name) for name in ("reason", "job", "rid", "lease")}
        assert said == {name: answer.get(name) for name in said}
        assert problem.code == answer["code"]
        assert answer.get("details") in (None, problem.details)


@pytest.mark.parametrize("case", INVALID)
def test_what_is_invalid_is_answered_by_its_error(case: dict[str, Any]) -> None:
    for endpoint in case["endpoints"]:
        broker = VirtualBroker({})
        broker.connect("p", endpoint.removesuffix("s"))
        for greeted in (False, True):
            if greeted:
                assert _answers(broker, [b"DJP1", msgpack.packb({"t": "hello", "name": "p"})])[0]["t"] == "welcome"
            answers = _answers(broker, [frame(each) for each in case["frames"]])
            if case["answer"] is None:
                assert answers == []
                continue
            (answer,) = answers
            assert answer["t"] == "error"
            assert {name: answer.get(name) for name in case["answer"]} == case["answer"]


def _answers(broker: VirtualBroker, frames: list[bytes]) -> list[dict[str, Any]]:
    broker.send("p", frames)
    return [msgpack.unpackb(frames[1]) for _, frames in broker.receive(0)]


def test_digests() -> None:
    for row in load("digests.json")["digests"]:
        assert digest(row["program"], row.get("revision"), row.get("profile"), frame(row["body"])) == row["digest"], row


def test_ids() -> None:
    ids = load("ids.json")
    for text in ids["valid"]:
        assert msgspec.convert(text, Id) == text
    for row in ids["invalid"]:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(row["id"], Id)
    for row in ids["uuid7"]:
        random = int(row["uuid"].replace("-", "")[13:], 16)
        bits = (random >> 64 << 68) | random & ((1 << 62) - 1)
        assert uuid7(row["unix_ms"], bits.to_bytes(10, "big")) == row["uuid"]
    for row in ids["leases"]:
        assert lease_id(row["epoch"], row["number"]) == row["lease"]
    assert sorted(ids["ascending"]) == ids["ascending"]


@pytest.mark.parametrize("transcript", BROKER_TRANSCRIPTS)
def test_broker_transcripts_in_virtual_time(transcript: dict[str, Any]) -> None:
    Engine(VirtualBroker(transcript.get("settings", {})), transcript).run()


def test_the_readme_explains_every_step_and_pattern() -> None:
    readme = (VECTORS / "README.md").read_text("utf-8")
    words: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            words.update(name for name in value if name.startswith("$"))
            for each in value.values():
                collect(each)
        elif isinstance(value, list):
            for each in value:
                collect(each)

    for path in sorted((VECTORS / "transcripts").glob("*.json")):
        for transcript in json.loads(path.read_text("utf-8"))["transcripts"]:
            words.update(f'{name}"' for step in transcript["steps"] for name in step if name != "peer")
            collect(transcript["steps"])
    for path in sorted(VECTORS.rglob("*.json")):
        assert path.name in readme or f"{path.name.partition('-')[0]}-*.json" in readme
    for word in sorted(words):
        assert word in readme or f"`{word[:-1]}`" in readme, f"README.md does not explain {word}"
