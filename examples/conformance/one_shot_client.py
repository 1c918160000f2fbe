"""The driver of a one-shot client in a page: `dspymq conformance client -- python one_shot_client.py`.

docs/conformance-drivers.md is the contract, SPEC.md section 3.6 has the client.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from typing import Any

import msgpack
import zmq

CODES = ["OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"]
CODES += ["PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"]
CODES += ["UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"]


def call(address: str, program: str, inputs: dict[str, Any], timeout_ms: int) -> dict[str, Any]:
    """Ask one thing: how it ended."""
    with zmq.Context.instance().socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(address)
        header = {"t": "submit", "job": uuid.uuid4().hex, "program": program, "timeout_ms": timeout_ms}
        socket.send_multipart([b"DJP1", msgpack.packb(header), msgpack.packb({"inputs": inputs})])
        if not socket.poll(timeout_ms + 10_000):
            return {"code": "UNAVAILABLE"}
        answer, *body = socket.recv_multipart()[1:]
    said = msgpack.unpackb(answer)
    found = {"code": said["code"] if said["code"] in CODES else "UNKNOWN", "reason": said.get("reason")}
    return {**found, "outputs": msgpack.unpackb(body[0])["outputs"]} if body else found


def main() -> None:
    """Do what stdin says until it ends."""
    address = os.environ["DSPYMQ_BROKERS"].split(",")[0]
    print(json.dumps({"ready": True, "supports": ["one-shot"]}), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        found = call(address, told["program"], told["inputs"], told.get("timeout_ms", 60_000))
        print(json.dumps({"outcome": {"call": told["call"], **found}}), flush=True)


if __name__ == "__main__":
    main()
