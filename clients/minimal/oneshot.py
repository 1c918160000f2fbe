"""A one-shot DJP/1 client (SPEC.md section 3.6): one question over a REQ socket, without a session.

usage: oneshot.py ADDR[,ADDR...] call PROGRAM [key=value ...] [--timeout-ms N]
"""

import json
import os
import sys
import threading
import uuid

import msgpack
import zmq


def ask(address, program, inputs, timeout_ms=30_000, **fields):
    """The header and the body of the answer: `result`, or `error`."""
    with zmq.Context.instance().socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(address)
        header = {"t": "submit", "job": str(uuid.uuid4()), "program": program, "timeout_ms": timeout_ms, **fields}
        socket.send_multipart([b"DJP1", msgpack.packb(header), msgpack.packb({"inputs": inputs})])
        if not socket.poll(timeout_ms + 10_000):
            return {"code": "DEADLINE_EXCEEDED", "reason": "deadline", "message": "no answer in time"}, {}
        _, answer, *body = socket.recv_multipart()
        return msgpack.unpackb(answer), msgpack.unpackb(body[0]) if body else {}


def call(addresses, program, *arguments):
    """Print the outputs as a line of JSON, or "CODE reason message" on stderr; the exit code."""
    arguments, timeout_ms = list(arguments), 30_000
    if "--timeout-ms" in arguments:
        at = arguments.index("--timeout-ms")
        timeout_ms = int(arguments[at + 1])
        del arguments[at : at + 2]
    inputs = dict(argument.split("=", 1) for argument in arguments)
    header, body = ask(addresses.split(",")[0], program, inputs, timeout_ms)
    if header["code"] == "OK":
        print(json.dumps(body["outputs"], ensure_ascii=False))
        return 0
    print(header["code"], header.get("reason", ""), header.get("message", ""), file=sys.stderr)
    return 1


def drive():
    """The driver for `dspymq conformance client` (docs/conformance-drivers.md)."""
    address = os.environ["DSPYMQ_BROKERS"].split(",")[0]

    def answer(told):
        timeout_ms = told.get("timeout_ms", 60_000)
        header, body = ask(address, told["program"], told["inputs"], timeout_ms, **told.get("options", {}))
        outcome = {key: header[key] for key in ("code", "reason", "message", "attempt") if header.get(key) is not None}
        outputs = {"outputs": body["outputs"]} if header["code"] == "OK" else {}
        print(json.dumps({"outcome": {"call": told["call"], **outcome, **outputs}}), flush=True)

    print(json.dumps({"ready": True, "supports": ["one-shot"]}), flush=True)
    for line in sys.stdin:
        threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
    os._exit(0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["drive"]:
            drive()
        case [addresses, "call", program, *arguments]:
            sys.exit(call(addresses, program, *arguments))
        case _:
            sys.exit(__doc__)
