"""Drives a real broker process over real sockets. Processes are forked from one server that has everything imported."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any, Final

import msgspec
import zmq

ANY_PORT: Final = "tcp://127.0.0.1:*"
PATIENCE_S: Final = 20.0


def _serve(settings: dict[str, Any], told: Connection) -> None:
    """The life of a broker's process: its addresses go to `told`."""
    from dspymq.broker import BrokerConfig
    from dspymq.broker.server import serve

    config = msgspec.convert(settings, BrokerConfig)
    asyncio.run(serve(config, on_started=lambda broker: told.send((broker.clients_address, broker.workers_address))))


_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["dspymq.broker", "dspymq.broker.server"])


class BrokerProcess:
    """A broker in a process of its own, until `close`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        mine, theirs = _processes.Pipe(duplex=False)
        self._process = _processes.Process(target=_serve, args=(settings, theirs), daemon=True)
        self._process.start()
        theirs.close()
        assert mine.poll(PATIENCE_S), "the broker did not start"
        self.clients, self.workers = mine.recv()
        mine.close()

    def stop(self) -> None:
        """Ask it to end (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.join(PATIENCE_S)

    def close(self) -> None:
        """It must still be there, or have ended well; afterwards it is gone."""
        code = self._process.exitcode
        self.kill()
        assert code in (None, 0), f"the broker ended by itself: {code}"


class SocketBroker:
    """A vector_engine.Driver, with a peer's socket for each peer. Close it at the end."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._broker = BrokerProcess({"clients": ANY_PORT, "workers": ANY_PORT, **settings})
        self._context: zmq.Context[Any] = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()

    def close(self) -> None:
        """Close all sockets, and end the broker."""
        self._context.destroy(linger=0)
        self._broker.close()

    def now_ms(self) -> float:
        """Real milliseconds."""
        return time.monotonic() * 1000

    def connect(self, name: str, kind: str) -> None:
        """A DEALER, or for one-shot clients a REQ, with the options of SPEC section 3.1."""
        socket = self._context.socket(zmq.REQ if kind == "one-shot" else zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1000))
        socket.connect(self._broker.workers if kind == "worker" else self._broker.clients)
        self._sockets[name] = socket
        self._poller.register(socket, zmq.POLLIN)

    def lose(self, name: str) -> None:
        """Close the peer's socket, without a word."""
        socket = self._sockets.pop(name)
        self._poller.unregister(socket)
        socket.close(0)

    def send(self, name: str, frames: list[bytes]) -> None:
        """Send."""
        self._sockets[name].send_multipart(frames)

    def receive(self, wait_ms: int) -> list[tuple[str, list[bytes]]]:
        """What has come."""
        ready = dict(self._poller.poll(wait_ms))
        found = []
        for name, socket in self._sockets.items():
            if socket in ready:
                found.append((name, socket.recv_multipart()))
        return found

    def other(self, step: dict[str, Any]) -> bool:
        """Stop the broker, or kill it and start it again at the same addresses."""
        if "stop_broker" in step:
            self._broker.stop()
        elif "restart_broker" in step:
            addresses = {"clients": self._broker.clients, "workers": self._broker.workers}
            self._broker.kill()
            for name in list(self._sockets):
                self.lose(name)
            self._broker = BrokerProcess({**self._settings, **addresses})
        else:
            return False
        return True
