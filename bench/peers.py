"""The two ends of a job as bare synchronous protocol peers, and the same two ends without a broker's messages.

They do as little as a peer can: what is measured between them is the broker, or `zmq.proxy`.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import zmq

from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import new_uuid7
from dspymq.protocol import worker_messages as w
from dspymq.protocol.codec import TAG, encode
from dspymq.protocol.messages import Hello, Ping, Pong, Welcome

BODY = bodies.encode(inputs={"question": "x" * 200})
WARM_UP = 500


def dealer(address: str) -> zmq.Socket[bytes]:
    """A connected DEALER."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 100_000)
    socket.setsockopt(zmq.RCVHWM, 100_000)
    socket.connect(address)
    return socket


def djp_worker(address: str, slots: int) -> None:
    """Answers each dispatch at once with its own body, until it is killed."""
    socket = dealer(address)
    decode = msgspec.msgpack.Decoder(w.Message).decode
    header = msgspec.msgpack.Encoder().encode
    socket.send_multipart(encode(Hello(name="bench")))
    while True:
        frames = socket.recv_multipart()
        message = decode(frames[1])
        if type(message) is w.Dispatch:
            result = w.Result(lease=message.lease, attempt=message.attempt, code="OK", revision="1")
            socket.send_multipart((TAG, header(result), frames[2]))
        elif type(message) is Ping:
            socket.send_multipart(encode(Pong(n=message.n)))
        elif type(message) is Welcome:
            offer = [w.Offer(name="noop", revision="1")]
            ready = w.Ready(worker=new_uuid7(), slots={"default": slots}, programs=offer, held=[])
            socket.send_multipart(encode(ready))


def djp_client(address: str, jobs: int, window: int, results: Any) -> None:
    """Keeps `window` jobs in flight; puts (seconds, sorted latencies in seconds) into `results`."""
    socket = dealer(address)
    decode = msgspec.msgpack.Decoder(c.Message).decode
    header = msgspec.msgpack.Encoder().encode
    socket.send_multipart(encode(Hello(name="bench", features=["ack"])))
    socket.recv_multipart()
    prefix = new_uuid7()[:24]
    sent_at: dict[str, float] = {}
    done: list[str] = []

    def submit(n: int) -> None:
        job = f"{prefix}{n:08d}"
        sent_at[job] = time.perf_counter()
        socket.send_multipart((TAG, header(c.Submit(job=job, program="noop", timeout_ms=60_000)), BODY))

    def receive() -> float | None:
        message = decode(socket.recv_multipart()[1])
        if type(message) is c.Result:
            assert message.code == "OK", message
            done.append(message.job)
            if len(done) >= 64:
                socket.send_multipart((TAG, header(c.Ack(jobs=done))))
                done.clear()
            return time.perf_counter() - sent_at.pop(message.job)
        if type(message) is Ping:
            socket.send_multipart(encode(Pong(n=message.n)))
            return None
        raise AssertionError(message)

    results.put(run_window(submit, receive, jobs, window))


def proxy_worker(address: str) -> None:
    """Answers each message with itself, until it is killed."""
    socket = dealer(address)
    while True:
        socket.send_multipart(socket.recv_multipart())


def proxy_client(address: str, jobs: int, window: int, results: Any) -> None:
    """The same as `djp_client`, through `zmq.proxy`."""
    socket = dealer(address)
    sent_at: dict[bytes, float] = {}

    def submit(n: int) -> None:
        job = b"%032d" % n
        sent_at[job] = time.perf_counter()
        socket.send_multipart((TAG, job, BODY))

    def receive() -> float | None:
        job = socket.recv_multipart()[1]
        return time.perf_counter() - sent_at.pop(job)

    results.put(run_window(submit, receive, jobs, window))


def proxy(frontend: Any, backend: Any) -> None:
    """`zmq.proxy` between a ROUTER and a DEALER; puts their addresses into the two pipes."""
    context = zmq.Context.instance()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for socket, pipe in ((front, frontend), (back, backend)):
        socket.setsockopt(zmq.SNDHWM, 100_000)
        socket.setsockopt(zmq.RCVHWM, 100_000)
        socket.bind("tcp://127.0.0.1:*")
        pipe.send(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    zmq.proxy(front, back)


def run_window(submit: Any, receive: Any, jobs: int, window: int) -> tuple[float, list[float]]:
    """Warm up, then keep `window` in flight until `jobs` are answered."""
    latencies: list[float] = []
    sent = 0
    begun = 0.0
    total = jobs + WARM_UP
    while sent < min(window, total):
        submit(sent)
        sent += 1
    answered = 0
    while answered < total:
        latency = receive()
        if latency is None:
            continue
        answered += 1
        if answered == WARM_UP:
            begun = time.perf_counter()
        elif answered > WARM_UP:
            latencies.append(latency)
        if sent < total:
            submit(sent)
            sent += 1
    return time.perf_counter() - begun, sorted(latencies)
