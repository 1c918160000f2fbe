"""Compares SPEC.md with the broker's core: the state table, reasons, limits, methods, features, digest, programs."""

from __future__ import annotations

import contextlib
import hashlib
import re
from typing import Any, Final, get_args

import msgspec

from dspymq.broker.config import BrokerConfig
from dspymq.broker.core import (
    BrokerCore,
    CoreSettings,
    client_side,
    event_hub,
    job_requests,
    requests,
    worker_side,
    workers,
)
from dspymq.broker.core import events as ev
from dspymq.broker.core.effects import ToClient
from dspymq.broker.core.params import Params
from dspymq.broker.core.store import digest_of
from dspymq.broker.core.table import TABLE, Action, State
from dspymq.broker.endpoint import MAX_OUTBOX_BYTES, MAX_WAITING_BYTES
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import limits as lim
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import REASONS, Code, ProtocolError
from dspymq.protocol.ids import MAX_ID_CHARS, lease_id
from dspymq.protocol.messages import Bye, Hello, Name, Reply, Request, Text
from dspymq.transport import dealer, router
from dspymq.worker.executor import signature_text, spec_nodes
from dspymq.worker.supervisor.pool import FEATURES as WORKER_FEATURES
from tests.conformance import spec_session
from tests.conformance.spec_text import Spec, word, words

NOT_ON_THE_WIRE: Final = {"programs_failed", "threads_started"}
"""Reasons between a pool's own processes: a broker never sees them, and SPEC.md does not have them."""

WELCOME_SETTINGS: Final = {"adopt_ms", "orphan_ms", "retain_ms", "client_ping_ms", "worker_ping_ms"}


def check_states(spec: Spec) -> list[str]:
    """The state x event table against TABLE."""
    states = [state.value for state in State]
    rows = {row["event"]: row for row in spec.table(r"^### 5\.4 ")}
    problems = _same("events", set(rows), {event.value for event in TABLE})
    if rows and list(next(iter(rows.values())))[1:] != states:
        problems.append(f"the columns are {list(next(iter(rows.values())))[1:]}, the states {states}")
    for event, actions in TABLE.items():
        for state, action in actions.items():
            found = rows.get(event.value, {}).get(state.value)
            if found != _shown(action):
                problems.append(f"{event.value!r} in {state.value}: SPEC.md says {found!r}, TABLE {_shown(action)!r}")
    return problems


def check_actions(spec: Spec) -> list[str]:
    """Every action is explained once, and none that does not exist; so is every state."""
    explained = [row["action"] for row in spec.table(r"^### 5\.4 ", 1)]
    problems = _same("actions", set(explained), {_shown(action) for action in Action})
    problems += [f"{action!r} is explained twice" for action in set(explained) if explained.count(action) > 1]
    named = [row["state"] for row in spec.table(r"^### 5\.3 ")]
    return problems + _same("states", set(named), {state.value for state in State})


def check_reasons(spec: Spec) -> list[str]:
    """The registry against REASONS, and the list of codes."""
    rows = {word(row["reason"]): row for row in spec.table(r"^### 12\.3 ")}
    known = {name: reason for name, reason in REASONS.items() if name not in NOT_ON_THE_WIRE}
    problems = _same("reasons", set(rows), set(known))
    for name, reason in known.items():
        row = rows.get(name)
        expected = (str(reason.code), "yes" if reason.retryable else "no")
        if row is not None and (row["code"], row["retryable"]) != expected:
            problems.append(f"`{name}`: SPEC.md says {row['code']}, {row['retryable']}; the code {', '.join(expected)}")
    codes = [name for name in words(spec.part("12.2 ")) if name.isupper()]
    return problems + _same("codes", set(codes), {code.value for code in Code})


def check_limits(spec: Spec) -> list[str]:
    """Section 13 against the limits, the settings and the constants; and the default addresses."""
    problems = _numbers("limit", spec.table(r"^## 13 "), msgspec.structs.asdict(lim.Limits()))
    settings = {k: v for k, v in msgspec.structs.asdict(CoreSettings()).items() if k != "limits"}
    rows = spec.table(r"^## 13 ", 1)
    problems += _numbers("setting", rows, settings)
    first = {word(row["setting"]) for row in rows[: len(WELCOME_SETTINGS)]}
    problems += _same("the first five settings", first, WELCOME_SETTINGS)
    fixed = {
        "depth of a header": lim.MAX_HEADER_DEPTH,
        "characters of an id": MAX_ID_CHARS,
        "characters of a name": _meta(Name).max_length,
        "characters of a text": _meta(Text).max_length,
        "greatest integer of a field": _meta(lim.Count).le,
        "ids in an `ack`": lim.MAX_ACKS,
        "entries of `held` in a `ready`": lim.MAX_HELD,
        "body of a `request`": requests.MAX_PARAMS_BYTES,
        "body of a `ready`": worker_side.MAX_DESCRIPTION_BYTES,
        "frame (hard)": lim.HARD_FRAME_BYTES,
        "subscriptions of a session": event_hub.MAX_SUBSCRIPTIONS,
        "rows of `jobs.list`": job_requests.MAX_ROWS,
        "affinity keys": workers.MAX_AFFINITIES,
        "what waits for one peer, jobs aside, bytes": MAX_OUTBOX_BYTES,
        "results or dispatches that wait for one peer, bytes": MAX_WAITING_BYTES,
        "bodies of the leases of one worker, bytes": workers.MAX_UNSETTLED_BYTES,
        "revisions remembered that nobody offers": workers.MAX_REMEMBERED,
    }
    said = {row["limit"]: row["value"] for row in spec.table(r"^## 13 ", 2)}
    problems += _same("fixed limits", set(said), set(fixed))
    problems += [f"{name}: SPEC.md {said[name]}, code {n}" for name, n in fixed.items() if said.get(name) != str(n)]
    config = BrokerConfig()
    for address in (config.clients, config.workers):
        if f"`{address}`" not in spec.part("3.1 "):
            problems.append(f"section 3.1 does not name the default address {address}")
    return problems


def check_sockets(spec: Spec) -> list[str]:
    """The socket options against what the sockets of both sides are given."""
    import zmq

    problems = []
    for column, make, kind in (("broker (ROUTER)", router, "ROUTER"), ("client, worker (DEALER)", dealer, "DEALER")):
        recorder = _Recorder()
        make(recorder)
        if recorder.kind != getattr(zmq, kind):
            problems.append(f"{column} is not made as a {kind}")
        said = {word(row["option"]): row[column] for row in spec.table(r"^### 3\.1 ")}
        given = {"HEARTBEAT_IVL": "0"} | {zmq.SocketOption(k).name: str(v) for k, v in recorder.options.items()}
        for option in sorted(given.keys() | said.keys()):
            found, expected = said.get(option, "nothing"), given.get(option, "—")
            if found != expected:
                problems.append(f"{column}: {option}: SPEC.md says {found}, the code sets {expected}")
    return problems


def check_features(spec: Spec) -> list[str]:
    """The features that each side says."""
    rows = {row["said by"]: set(words(row["feature"])) for row in spec.table(r"^\| feature \|")}
    problems = _same("features to clients", rows.get("broker, to clients", set()), set(client_side.FEATURES))
    problems += _same("features to workers", rows.get("broker, to workers", set()), set(worker_side.FEATURES))
    of_workers = {word(row["feature"]) for row in spec.table(r"^\| feature \|") if row["said by"] == "worker"}
    problems += [f"a worker says {name!r}, SPEC.md does not" for name in WORKER_FEATURES if name not in of_workers]
    return problems


def check_methods(spec: Spec) -> list[str]:
    """The methods, who may call them, and the keys of what they really answer."""
    said = {word(row["method"]): row for row in spec.table(r"^### 10\.2 ")}
    asked = _Asked()
    problems = _same("methods", set(said), set(asked.methods))
    for name, row in said.items():
        worker = "yes" if name in requests.WORKER_METHODS else "no"
        if (row["client"], row["worker"]) != ("yes", worker):
            problems.append(f"`{name}`: SPEC.md says client {row['client']}, worker {row['worker']}; not {worker}")
    stats = asked.ask("stats.get")
    row = asked.ask("jobs.list")["jobs"][0]
    results = {
        "programs.list": asked.ask("programs.list")["programs"][0],
        "programs.get": asked.ask("programs.get", name="qa", spec=True),
        "workers.list": asked.ask("workers.list")["workers"][0],
        "jobs.list": row,
        "jobs.get": asked.ask("jobs.get", job="j").keys() - row.keys(),
        "stats.get": stats,
    }
    for name, result in results.items():
        rows = {word(row["key"]) for row in spec.table(rf"^#### `{re.escape(name)}`$")}
        described = {"description", "inputs", "outputs"} if name == "programs.get" else set()
        problems += _same(f"keys of {name}", rows, set(result) - described)
    named = {word(row["key"]): set(words(row["meaning"])) for row in spec.table(r"^#### `stats\.get`$")}
    problems += _same("stats.jobs", named.get("jobs", set()), set(stats["jobs"]))
    problems += _same("stats.queues", named.get("queues", set()), set(stats["queues"][0]))
    return problems + _same("stats.slots", named.get("slots", set()), set(stats["slots"]["default"]))


def check_params(spec: Spec) -> list[str]:
    """Of each method the params that SPEC.md names are those that it asks for, and no others."""
    problems = []
    for row in spec.table(r"^### 10\.2 "):
        name = word(row["method"])
        asks = _Asked().asks(name)
        problems += _same(f"params of {name}", set(words(row["params"])), asks)
    return problems


def check_events(spec: Spec) -> list[str]:
    """The kinds of events, and the keys of those that a small life of a broker makes."""
    rows = {word(row["kind"]): row for row in spec.table(r"^### 10\.4 ")}
    problems = _same("kinds of events", set(rows), set(event_hub.KINDS))
    seen = _Asked().events()
    assert set(seen) == set(event_hub.KINDS), "the life of `_Asked` makes every kind of event"
    for kind, keys in seen.items():
        said = set(words(rows[kind]["keys of `event` in the body"])) if kind in rows else set()
        problems += _same(f"keys of {kind}", said, keys)
    return problems


def check_digest(spec: Spec) -> list[str]:
    """The worked digest, and the worked ids."""
    block = next(block for block in spec.blocks("text") if "\ndigest " in block)
    octets, _, digest = block.partition("\ndigest ")
    material = bytes.fromhex(octets)
    submit = c.Submit(job=spec_session.JOB, program="qa", timeout_ms=30_000)
    right = digest_of(submit, bodies.encode(inputs={"question": "2+2?"})).hex()
    problems = []
    if hashlib.sha256(material).hexdigest()[:32] != right:
        problems.append("the octets of section 5.2 do not give the broker's digest")
    if digest.strip() != right:
        problems.append(f"section 5.2 says the digest {digest.strip()}, the broker {right}")
    shown = (f"`{lease_id(spec_session.EPOCH, 1)}`", f"`{spec_session.JOB}`")
    return problems + [f"SPEC.md does not show {text}" for text in shown if text not in spec.text]


def check_inline(spec: Spec) -> list[str]:
    """The types, reserved names and limits of inline signatures."""
    part = spec.part("11.7 ")
    grammar = re.search(r"^simple .*?(?=^dspy)", part, re.MULTILINE | re.DOTALL)
    said = set(re.findall(r'"([\w.]+)"', grammar[0])) if grammar else set()
    dated = {name for name in said if name in ("date", "datetime", "time", "timedelta")}
    said = (said - {"datetime."}) | {f"datetime.{name}" for name in dated}
    problems = _same("simple types", said, set(signature_text._SIMPLE))
    own = re.search(r"^dspy .*?(?=^value)", part, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r'"([A-Z]\w+)"', own[0])) if own else set()
    problems += _same("types of DSPy", named, set(signature_text.OF_DSPY))
    kinds = {word(row["`kind`"]): set(words(row["its keys"])) for row in spec.table(r"^### 11\.7 ")}
    problems += _same("kinds", set(kinds), set(spec_nodes.KINDS))
    for kind, keys in kinds.items():
        problems += _same(f"keys of {kind}", keys, set(spec_nodes.KINDS.get(kind, ())))
    for adapter in spec_nodes.ADAPTERS:
        if not re.search(rf"one of .*\b{adapter}\b", part):
            problems.append(f"section 11.7 does not name the adapter {adapter}")
    generic = set(re.findall(r'"(\w+)\[', part))
    problems += _same("types with [...]", generic, set(signature_text._GENERIC))
    reserved = signature_text.RESERVED_INPUTS | signature_text.RESERVED_FIELDS
    problems += [f"the reserved name `{name}` is not there" for name in sorted(reserved) if f"`{name}`" not in part]
    problems += [f"the form `{name}` is not there" for name in signature_text._ALIASES if f"`{name}`" not in part]
    for number, what in (
        (f"{signature_text.MAX_CHARS:,} characters", "signature"),
        (f"at most {signature_text.MAX_FIELDS} in all", "fields"),
        (f"at most {signature_text.MAX_DEPTH} deep", "depth"),
        (f"at most {signature_text.MAX_LITERALS} values", "literals"),
    ):
        if number not in part:
            problems.append(f"section 11.7 does not say {number!r} of {what}")
    return problems


class _Recorder:
    """Stands for a context and its socket, and notes the options."""

    def __init__(self) -> None:
        self.kind: Any = None
        self.options: dict[int, int] = {}

    def socket(self, kind: Any) -> _Recorder:
        self.kind = kind
        return self

    def setsockopt(self, option: int, value: int) -> None:
        self.options[option] = value


_THROTTLED = {"id": "lm default", "pid": None, "lm": {"profile": "default", "state": "throttled"}}
_DEFINITION = {"name": "data", "spec": {"signature": "a -> b"}}


class _Asked:
    """A core with one worker that has a job, and a job that waits; and what it answers."""

    def __init__(self) -> None:
        self._core = BrokerCore(CoreSettings(circuit_failures=1, circuit_open_ms=1), spec_session.EPOCH)
        self._now_ms = 1_000
        self._worker(Hello(name="pool"))
        self._ready(1)
        self._client(Hello(name="demo"))
        self._client(c.Submit(job="j", program="qa", timeout_ms=1_000))
        self._client(c.Submit(job="k", program="qa", timeout_ms=1_000))
        self.methods = self._client(Request(rid="1", method="nope"))[0].details["methods"]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a request."""
        message, body = self._client(Request(rid="1", method=method), bodies.encode(params=params))
        assert isinstance(message, Reply), message
        return bodies.part(body, "result")

    def asks(self, method: str) -> set[str]:
        """The params that a method looks at, given a worker's name, a job that is done, and a subscription."""
        self._worker(w.Result(lease=lease_id(spec_session.EPOCH, 1), attempt=1, code="OK"))
        given = {"name": "qa", "worker": "w1", "job": "j", "sub": self.ask("events.subscribe")["sub"]}
        given |= {"alias": "prod", "revision": "r1"}
        params = _Noted(given, self._core.context.clients[b"c"])
        self._core.context.effects = []
        with contextlib.suppress(ProtocolError):  # what is not asked by then is seen to be missing
            self._requests().methods[method](params)
        return params.asked

    def events(self) -> dict[str, set[str]]:
        """Kind to keys of the events of some more life."""
        self.ask("events.subscribe")
        kinds: dict[str, set[str]] = {}
        lease = lease_id(spec_session.EPOCH, 1)
        for step in (
            lambda: self._client(c.Submit(job="l", program="qa", timeout_ms=1_000)),
            lambda: self._worker(w.Released(lease=lease, started=True, cause="crash")),
            lambda: self._worker(w.Result(lease=lease_id(spec_session.EPOCH, 2), attempt=2, code="OK")),
            lambda: self._worker(w.Result(lease=lease_id(spec_session.EPOCH, 3), attempt=1, code="UNKNOWN")),
            lambda: self._client(c.Submit(job="m", program="qa", timeout_ms=1_000)),
            lambda: self._worker(w.Result(lease=lease_id(spec_session.EPOCH, 4), attempt=1, code="OK")),
            lambda: self._client(Request(rid="2", method="programs.define"), bodies.encode(params=_DEFINITION)),
            lambda: self._worker(w.Result(lease=lease_id(spec_session.EPOCH, 5), attempt=1, code="OK")),
            lambda: self.ask("programs.alias", name="data", alias="prod", revision=self._defined()),
            lambda: self.ask("programs.alias", name="data", alias="prod"),
            lambda: self.ask("programs.undefine", name="data", revision=self._defined()),
            lambda: self._tell(ev.WorkerMessage(b"w", self._offer(1, None), bodies.encode(executors=[_THROTTLED]))),
            lambda: self.ask("workers.drain", worker="w1"),
            lambda: self.ask("workers.undrain", worker="w1"),
            lambda: self._tell(ev.WorkerUnreachable(b"w")),
            lambda: self._tell(ev.WorkerMessage(b"w2", Hello(name="pool"), b"")),
            lambda: self._tell(ev.WorkerMessage(b"w2", self._offer(1, [self._held("x")]), b"")),
            lambda: self._tell(ev.WorkerMessage(b"w2", Bye(), b"")),
            lambda: self._tell(ev.ClientMessage(b"d", Hello(name="d"), b"")),
            lambda: self._tell(ev.ClientMessage(b"d", Bye(), b"")),
        ):
            step()
            kinds |= {e.message.kind: set(bodies.decode(e.body)["event"]) for e in self._sent if _is_event(e)}
        return kinds

    def _defined(self) -> str:
        (revision,) = self.ask("programs.get", name="data")["defined"]
        return str(revision)

    def _requests(self) -> requests.Requests:
        found: requests.Requests = self._core.clients._requests
        return found

    def _held(self, job: str) -> w.Held:
        return w.Held(lease="x-1", ns="anonymous", job=job, attempt=1, digest="00" * 16, state="running")

    def _offer(self, slots: int, held: list[w.Held] | None) -> w.Ready:
        offers = [w.Offer(name=name, revision="r1") for name in ("qa", "_inline", "_define")]
        return w.Ready(worker="w1", slots={"default": slots}, programs=offers, held=held)

    def _ready(self, slots: int) -> None:
        self._worker(self._offer(slots, []))

    def _client(self, message: Any, body: bytes = b"") -> tuple[Any, bytes]:
        return self._tell(ev.ClientMessage(b"c", message, body))

    def _worker(self, message: Any) -> tuple[Any, bytes]:
        return self._tell(ev.WorkerMessage(b"w", message, b""))

    def _tell(self, event: ev.Event) -> tuple[Any, bytes]:
        self._now_ms += 1
        self._sent = [effect for effect in self._core.handle(event, self._now_ms) if isinstance(effect, ToClient)]
        answers = [effect for effect in self._sent if not _is_event(effect)]
        return (answers[-1].message, answers[-1].body) if answers else (None, b"")


class _Noted(Params):
    """Params that note what is asked of them."""

    def __init__(self, values: dict[str, Any], session: Any) -> None:
        super().__init__(values, session)
        self.asked: set[str] = set()

    def text(self, name: str) -> str:
        self.asked.add(name)
        return super().text(name)

    def optional_text(self, name: str) -> str | None:
        self.asked.add(name)
        return super().optional_text(name)

    def count(self, name: str, default: int) -> int:
        self.asked.add(name)
        return super().count(name, default)

    def texts(self, name: str) -> list[str]:
        self.asked.add(name)
        return super().texts(name)

    def map(self, name: str) -> dict[str, Any]:
        self.asked.add(name)
        return {}

    def flag(self, name: str) -> bool:
        self.asked.add(name)
        return super().flag(name)

    def has(self, name: str) -> bool:
        self.asked.add(name)
        return super().has(name)


def _is_event(effect: ToClient) -> bool:
    return isinstance(effect.message, c.Event)


def _shown(action: Action) -> str:
    return action.value.replace("_", " ")


def _meta(kind: Any) -> msgspec.Meta:
    return next(each for each in get_args(kind) if isinstance(each, msgspec.Meta))


def _numbers(column: str, rows: list[dict[str, str]], values: dict[str, int]) -> list[str]:
    said = {word(row[column]): row["default"] for row in rows}
    problems = _same(f"{column}s", set(said), set(values))
    return problems + [
        f"`{name}`: SPEC.md says {said[name]}, the code {value}"
        for name, value in values.items()
        if name in said and said[name] != str(value)
    ]


def _same(what: str, said: set[str], real: set[str]) -> list[str]:
    problems = [f"{what}: SPEC.md has {name!r}, the code does not" for name in sorted(said - real)]
    return problems + [f"{what}: the code has {name!r}, SPEC.md does not" for name in sorted(real - said)]
