"""ScriptedLM: an OpenAI-compatible server whose answers the test decides."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from .directives import DirectiveError, Script, make_script, read_directives
from .http import Connection, Exchange
from .ledger import Entry, JobStats, Ledger
from .prompt import Prompt, read_prompt
from .values import answer_text

T = TypeVar("T")

GARBAGE = "I would rather talk about the weather: it has been fine all week."
_PIECE_CHARS = 8


class ScriptedLM:
    """A scripted LM on a port that the OS chose, in a thread of its own.

        with ScriptedLM() as lm:
            dspy.LM("openai/scripted", api_base=lm.url, api_key="x", cache=False)
            lm.script(job="j1", hang=True)
            lm.wait_for(lambda: lm.job("j1").open == 1)

    Directives (tests.lm.directives) come from `script(job=...)`, then the request's last user message, then
    `script()` without a job. Answers are deterministic: see tests.lm.values.expected_answer.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._ledger = Ledger()
        self._scripts: dict[str | None, Script] = {}
        self._holds: dict[asyncio.Event, str] = {}
        self._connections: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="scripted-lm", daemon=True)
        self._server: asyncio.Server | None = None
        self._throttled_until_s = 0.0
        self.most_open: int | None = None
        """A request while so many are open is answered by a 429, without Retry-After. Set it at any time."""

    def start(self) -> ScriptedLM:
        """Listen; `url` is valid from here on. Raises OSError if the port is taken."""
        try:
            self._server = self._loop.run_until_complete(self._listen())
        except OSError:
            self._loop.close()
            raise
        self._port = self._server.sockets[0].getsockname()[1]
        self._thread.start()
        return self

    def close(self) -> None:
        """Drop every connection and end the thread. A second call does nothing."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.run_until_complete(self._shut_down())
        self._loop.close()

    def __enter__(self) -> ScriptedLM:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The base URL for clients; ends in /v1."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def requests(self) -> int:
        """Requests so far, of all jobs."""
        return self._ledger.count("requests")

    @property
    def open(self) -> int:
        """Requests being answered now."""
        return self._ledger.count("open")

    @property
    def peak_open(self) -> int:
        """The most requests that were open at once."""
        return self._ledger.count("peak_open")

    @property
    def tokens(self) -> int:
        """Words sent in answers so far."""
        return self._ledger.count("tokens")

    @property
    def jobs(self) -> list[str]:
        """The jobs seen so far, by first request; "" stands for requests that named none."""
        return self._ledger.jobs()

    def job(self, job: str) -> JobStats:
        """A snapshot of one job's counts; all zero if it was never seen."""
        return self._ledger.job(job)

    def total(self) -> JobStats:
        """A snapshot of everybody's counts."""
        return self._ledger.total()

    def script(self, job: str | None = None, **directives: Any) -> None:
        """Set directives for a job, or without one the defaults for all. Raises DirectiveError.

        A later call for the same job adds to, or overrides, an earlier one. A directive given as False
        (or None) for a job overrides (or leaves to) the request's own text.
        """
        self._scripts[job] = make_script(**directives).over(self._scripts.get(job, Script()))

    def unscript(self, job: str | None = None) -> None:
        """Forget the directives of a job, or without one the defaults."""
        self._scripts.pop(job, None)

    def release(self, job: str | None = None) -> None:
        """Let the hanging requests of a job (of all jobs) go on to their answer."""

        def set_them() -> None:
            for event, owner in self._holds.items():
                if job is None or owner == job:
                    event.set()

        self._loop.call_soon_threadsafe(set_them)

    def throttle(self, seconds: float) -> None:
        """Answer every request by a 429 for so long; its Retry-After says what is left of it."""
        self._throttled_until_s = time.monotonic() + seconds

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens at the port while the block runs, and every connection is reset."""
        asyncio.run_coroutine_threadsafe(self._stop_listening(), self._loop).result()
        with socket.socket() as place:
            # Kept, so that nobody else gets it.
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(("127.0.0.1", self._port))
            yield
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def wait_for(self, predicate: Callable[[], T], timeout_s: float = 10.0) -> T:
        """Wait until `predicate()` holds and return its value; TimeoutError tells what was seen instead.

        It is evaluated at every change of the counts, for example `lambda: lm.job("a").disconnects == 1`.
        """
        return self._ledger.wait_for(predicate, timeout_s)

    def wait_open(self, job: str, count: int = 1, timeout_s: float = 10.0) -> None:
        """Wait until `count` requests of `job` are open at once."""
        self.wait_for(lambda: self.job(job).open >= count, timeout_s)

    def wait_disconnected(self, job: str, count: int = 1, timeout_s: float = 10.0) -> float:
        """Wait until `job` lost `count` connections; the time.monotonic() of that one."""
        self.wait_for(lambda: self.job(job).disconnects >= count, timeout_s)
        return self.job(job).disconnected_at_s[count - 1]

    def wait_idle(self, timeout_s: float = 10.0) -> None:
        """Wait until no request is open."""
        self.wait_for(lambda: self.open == 0, timeout_s)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(
            lambda: Connection(self._handle, self._connections), "127.0.0.1", self._port, backlog=4096
        )

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.abort()

    async def _shut_down(self) -> None:
        await self._stop_listening()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, exchange: Exchange) -> None:
        route = (exchange.method, exchange.path.partition("?")[0])
        if route == ("POST", "/v1/chat/completions"):
            await self._complete(exchange)
        elif route == ("GET", "/v1/models"):
            exchange.reply(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})
        elif route == ("GET", "/stats"):
            stats = {"total": vars(self.total()), "jobs": {j: vars(self.job(j)) for j in self.jobs}}
            exchange.reply(200, stats)
        elif route == ("POST", "/script"):
            self.script(**json.loads(exchange.body))
            exchange.reply(200, {})
        elif route == ("POST", "/release"):
            self.release(**json.loads(exchange.body or b"{}"))
            exchange.reply(200, {})
        else:
            exchange.reply(404, {"error": {"message": f"no route {route}", "type": "not_found"}})

    async def _complete(self, exchange: Exchange) -> None:
        try:
            body = json.loads(exchange.body)
            prompt = read_prompt(body)
            script = self._script_for(prompt)
        except (DirectiveError, KeyError, TypeError, ValueError) as error:
            exchange.reply(400, {"error": {"message": f"scripted LM: {error}", "type": "invalid_request_error"}})
            return
        entry = self._ledger.begin(script.job or "", prompt.text)
        exchange.on_disconnect = entry.disconnected
        script = script.for_request(entry.number)
        throttle = self._throttle()
        if throttle is not None:
            entry.failed()
            _reply_error(exchange, throttle, 429)
            return
        if script.delay_ms:
            await asyncio.sleep(script.delay_ms / 1000)
        if script.hang:
            await self._hold(entry)
        if script.drop:
            entry.failed()
            exchange.drop()
        elif script.status is not None:
            entry.failed()
            _reply_error(exchange, script, script.status)
        else:
            await self._answer(exchange, body, script, entry, _completion(prompt, script))

    def _throttle(self) -> Script | None:
        left_s = self._throttled_until_s - time.monotonic()
        if left_s > 0:
            return Script(retry_after=round(left_s, 3))
        return Script() if self.most_open is not None and self.open > self.most_open else None

    def _script_for(self, prompt: Prompt) -> Script:
        said = read_directives("\n".join(prompt.inputs.values()))
        script = self._scripts.get(said.job, Script()).over(said) if said.job else said
        script = script.over(self._scripts.get(None, Script()))
        return replace(script, job=said.job)

    async def _hold(self, entry: Entry) -> None:
        event = asyncio.Event()
        self._holds[event] = entry.job
        try:
            await event.wait()
        finally:
            del self._holds[event]

    async def _answer(self, exchange: Exchange, body: dict[str, Any], script: Script, entry: Entry, text: str) -> None:
        asked = sum(len(str(m.get("content") or "").split()) for m in body["messages"])
        said = len(text.split())
        usage = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
        head = {"id": f"scripted-{entry.job}-{entry.number}", "created": 0, "model": body.get("model", "scripted")}
        if body.get("stream"):
            wants_usage = (body.get("stream_options") or {}).get("include_usage")
            await self._stream(exchange, head, script, entry, text, usage if wants_usage else None)
            return
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        entry.answered(said)
        exchange.reply(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    async def _stream(
        self,
        exchange: Exchange,
        head: dict[str, Any],
        script: Script,
        entry: Entry,
        text: str,
        usage: dict[str, int] | None,
    ) -> None:
        def event(delta: dict[str, str], finish: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return json.dumps({**head, "object": "chat.completion.chunk", "choices": [choice]})

        size = script.chunk or _PIECE_CHARS
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        exchange.start_events()
        await exchange.events([event({"role": "assistant", "content": ""})])
        for number, piece in enumerate(pieces):
            if number == script.hang_after:
                await self._hold(entry)
            if number == script.drop_after:
                entry.failed()
                exchange.drop()
                return
            if script.token_ms and number:
                await asyncio.sleep(script.token_ms / 1000)
            entry.piece()
            await exchange.events([event({"content": piece})])
        last = [event({}, "stop")]
        if usage is not None:
            tail = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
            last.append(json.dumps(tail))
        entry.answered(len(text.split()))
        await exchange.events([*last, "[DONE]"])
        exchange.end_events()


def _completion(prompt: Prompt, script: Script) -> str:
    if script.garbage:
        return GARBAGE
    answers = dict(script.answer)
    if any(o.name == "next_tool_name" for o in prompt.outputs):
        step = prompt.text.count("[[ ## observation_")
        tools = script.tools or ()
        tool = tools[step] if step < len(tools) else "finish"
        answers = {"next_tool_name": tool, "next_tool_args": script.args.get(tool, {}), **answers}
    return answer_text(prompt, answers, script.tokens)


def _reply_error(exchange: Exchange, script: Script, status: int) -> None:
    headers = {} if script.retry_after is None else {"Retry-After": f"{script.retry_after:g}"}
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "server_error")
    error = {"message": f"scripted failure {status}", "type": kind, "code": script.code}
    exchange.reply(status, {"error": error}, headers)
