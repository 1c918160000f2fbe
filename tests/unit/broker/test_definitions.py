"""Programs as data, and aliases (SPEC section 11.10): define, run, alias, undefine."""

from __future__ import annotations

from typing import Any

import pytest

from dspymq.broker.core import BrokerCore
from dspymq.broker.core.definitions import Definitions
from dspymq.protocol import body as bodies
from dspymq.protocol import client_messages as c
from dspymq.protocol import worker_messages as w
from dspymq.protocol.errors import ProtocolError
from dspymq.protocol.messages import Error, Hello, Reply, Request
from tests.unit.broker.harness import EPOCH, CoreHarness, ready

A, B, W, V = b"a", b"b", b"w", b"v"
SPEC = {"signature": "text -> summary"}
DESCRIPTION = {"description": "Sums up.", "inputs": {"type": "object"}, "outputs": {"type": "object"}}


@pytest.fixture
def broker() -> CoreHarness:
    broker = CoreHarness()
    broker.join_client(A, "a")
    broker.join_client(B, "b")
    broker.join_worker(W, "pool", slots=4, programs=("qa", "_inline", "_define"))
    return broker


def ask(broker: CoreHarness, method: str, *, peer: bytes = A, rid: str = "r", **params: Any) -> None:
    broker.client(peer, Request(rid=rid, method=method), bodies.encode(params=params))


def replied(broker: CoreHarness, peer: bytes = A) -> Any:
    """The result of the one reply that has come."""
    (found,) = [(message, body) for message, body in broker.sent[peer] if isinstance(message, Reply)]
    broker.take(peer, Reply)
    return bodies.decode(found[1])["result"]


def refused(broker: CoreHarness, reason: str, peer: bytes = A) -> Error:
    error = broker.one(peer, Error)
    assert error.reason == reason, error
    return error


def checked(broker: CoreHarness, spec: dict[str, Any], worker: bytes = W, **end: Any) -> None:
    """A worker has been asked, and says so."""
    (dispatch,) = broker.take(worker, w.Dispatch)
    assert dispatch.program == "_define"
    (body,) = [body for message, body in broker.log_of(worker) if message is dispatch]
    assert bodies.decode(body) == {"inputs": {}, "spec": spec}
    if end:
        broker.finish(worker, dispatch, body=b"", **end)
    else:
        broker.finish(worker, dispatch, body=bodies.encode(outputs=DESCRIPTION))


def define(broker: CoreHarness, name: str = "sum", spec: dict[str, Any] = SPEC, peer: bytes = A) -> str:
    ask(broker, "programs.define", peer=peer, name=name, spec=spec)
    checked(broker, spec)
    found = replied(broker, peer)
    assert found["created"] is True
    return str(found["revision"])


def dispatched(broker: CoreHarness, program: str, worker: bytes = W, **fields: Any) -> w.Dispatch:
    broker.submit(A, f"job-{broker.now_ms}-{program}", program, **fields)
    broker.now_ms += 1
    (dispatch,) = broker.take(worker, w.Dispatch)
    return dispatch


def test_a_defined_program_is_run_by_any_worker_that_takes_specs(broker: CoreHarness) -> None:
    revision = define(broker)
    dispatch = dispatched(broker, "sum")
    assert (dispatch.program, dispatch.revision, dispatch.defined) == ("sum", revision, True)
    broker.finish(W, dispatch)
    assert broker.one(A, c.Result).code == "OK"


def test_a_worker_that_takes_no_specs_is_not_given_it(broker: CoreHarness) -> None:
    define(broker)
    broker.join_worker(V, "plain", slots=9, programs=("qa",))
    broker.worker(W, ready("pool", 0, programs=("qa", "_inline", "_define")))
    broker.submit(A, "j", "sum", want=["accepted"])
    assert broker.take(V, w.Dispatch) == []
    assert broker.one(A, c.Accepted).missing == ["lane"]
    broker.worker(W, ready("pool", 1, programs=("qa", "_inline", "_define")))
    assert broker.one(W, w.Dispatch).program == "sum"


def test_the_same_content_is_the_same_revision_and_is_checked_once(broker: CoreHarness) -> None:
    revision = define(broker, spec={"signature": "a -> b", "kind": "predict"})
    ask(broker, "programs.define", peer=B, name="sum", spec={"kind": "predict", "signature": "a -> b"})
    assert replied(broker, B) == {"name": "sum", "revision": revision, "created": False}
    assert broker.take(W, w.Dispatch) == []
    assert define(broker, spec={"signature": "a -> c"}) != revision


def test_what_a_worker_refuses_is_not_defined(broker: CoreHarness) -> None:
    ask(broker, "programs.define", name="bad", spec={"signature": "a ->"})
    details = {"position": 4}
    end = {"code": "INVALID_ARGUMENT", "reason": "invalid_spec", "message": "no output", "details": details}
    checked(broker, {"signature": "a ->"}, **end)
    error = refused(broker, "invalid_spec")
    assert (error.code, error.rid, error.message, error.details) == ("INVALID_ARGUMENT", "r", "no output", details)
    broker.submit(A, "j", "bad")
    refused(broker, "unknown_program")
    assert broker.core.store.live == 0
    assert not broker.core.store.done


def test_the_newest_definition_runs_and_older_ones_can_be_named(broker: CoreHarness) -> None:
    old = define(broker, spec={"signature": "a -> b"})
    new = define(broker, spec={"signature": "a -> c"})
    assert dispatched(broker, "sum").revision == new
    assert dispatched(broker, "sum", revision=old).revision == old


def test_an_alias_moves_atomically(broker: CoreHarness) -> None:
    old = define(broker, spec={"signature": "a -> b"})
    new = define(broker, spec={"signature": "a -> c"})
    ask(broker, "programs.alias", name="sum", alias="prod", revision=old)
    assert replied(broker) == {"name": "sum", "alias": "prod", "revision": old, "before": None}
    dispatch = dispatched(broker, "sum@prod")
    assert (dispatch.program, dispatch.revision) == ("sum", old)
    ask(broker, "programs.alias", name="sum", alias="prod", revision=new, expect=new)
    assert refused(broker, "alias_moved").details == {"revision": old}
    ask(broker, "programs.alias", name="sum", alias="prod", revision=new, expect=old)
    assert replied(broker)["before"] == old
    assert dispatched(broker, "sum@prod").revision == new


def test_jobs_that_wait_run_at_what_the_alias_stands_for_when_they_are_dispatched(broker: CoreHarness) -> None:
    old = define(broker, spec={"signature": "a -> b"})
    new = define(broker, spec={"signature": "a -> c"})
    ask(broker, "programs.alias", name="sum", alias="prod", revision=old)
    broker.worker(W, ready("pool", 0, programs=("_inline", "_define")))
    broker.submit(A, "j", "sum@prod")
    ask(broker, "programs.alias", name="sum", alias="prod", revision=new)
    broker.worker(W, ready("pool", 1, programs=("_inline", "_define")))
    assert broker.one(W, w.Dispatch).revision == new


def test_an_alias_of_what_workers_offer_themselves(broker: CoreHarness) -> None:
    broker.join_worker(V, "next", slots=1, programs=("qa",), revision="r2")
    ask(broker, "programs.alias", name="qa", alias="stable", revision="r1")
    replied(broker)
    dispatch = dispatched(broker, "qa@stable", W)
    assert (dispatch.program, dispatch.revision, dispatch.defined) == ("qa", "r1", False)
    assert dispatched(broker, "qa", V).revision == "r2"


def test_an_unknown_alias_is_not_found_with_close_ones(broker: CoreHarness) -> None:
    revision = define(broker)
    ask(broker, "programs.alias", name="sum", alias="prod", revision=revision)
    broker.submit(A, "j", "sum@prdo")
    assert refused(broker, "unknown_program").details == {"close_matches": ["sum@prod"]}
    ask(broker, "programs.alias", name="sum", alias="prod", revision="r77")
    refused(broker, "unknown_revision")


def test_undefine_spares_what_an_alias_stands_for(broker: CoreHarness) -> None:
    revision = define(broker)
    ask(broker, "programs.alias", name="sum", alias="prod", revision=revision)
    ask(broker, "programs.undefine", name="sum", revision=revision)
    assert refused(broker, "aliased").details == {"aliases": ["prod"]}
    ask(broker, "programs.alias", name="sum", alias="prod")
    broker.take(A, Reply)
    ask(broker, "programs.undefine", name="sum", revision=revision)
    assert replied(broker) == {"name": "sum", "revision": revision}
    broker.submit(A, "j", "sum", revision=revision, want=["accepted"])
    assert broker.one(A, c.Accepted).missing == ["program"]


def test_get_gives_the_spec_to_whoever_wants_it(broker: CoreHarness) -> None:
    revision = define(broker)
    ask(broker, "programs.get", name="sum", revision=revision, spec=True)
    found = replied(broker)
    assert found["spec"] == SPEC
    assert found["inputs"] == DESCRIPTION["inputs"]
    assert (found["revision"], found["defined"], found["workers"]) == (revision, [revision], ["pool"])
    broker.worker(W, Request(rid="x", method="programs.get"), bodies.encode(params={"name": "sum", "spec": True}))
    assert broker.one(W, Reply).rid == "x"
    ask(broker, "programs.get", name="sum", revision="r0")
    refused(broker, "unknown_revision")
    ask(broker, "programs.list")
    (row,) = [row for row in replied(broker)["programs"] if row["name"] == "sum"]
    assert (row["revision"], row["description"], row["workers"]) == (revision, "Sums up.", 1)


def test_without_a_worker_that_takes_specs_nothing_can_be_defined() -> None:
    broker = CoreHarness()
    broker.join_client(A)
    broker.join_worker(V, "plain")
    ask(broker, "programs.define", name="sum", spec=SPEC)
    refused(broker, "no_worker")


def test_a_definition_stands_though_its_client_left_meanwhile(broker: CoreHarness) -> None:
    ask(broker, "programs.define", name="sum", spec=SPEC)
    broker.event(_bye(A))
    checked(broker, SPEC)
    assert broker.take(A, Reply) == []
    assert dispatched_for(broker, B, "sum").program == "sum"


def _bye(peer: bytes) -> Any:
    from dspymq.broker.core import events as ev

    return ev.ClientUnreachable(peer)


def dispatched_for(broker: CoreHarness, peer: bytes, program: str) -> w.Dispatch:
    broker.submit(peer, "job", program)
    return broker.one(W, w.Dispatch)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("programs.define", {"name": "a@b", "spec": SPEC}),
        ("programs.define", {"name": "_a", "spec": SPEC}),
        ("programs.define", {"name": "a" * 65, "spec": SPEC}),
        ("programs.define", {"name": "a", "spec": "text"}),
        ("programs.define", {"name": "a"}),
        ("programs.alias", {"name": "a", "alias": "_x", "revision": "r"}),
        ("programs.undefine", {"name": "a"}),
    ],
)
def test_params_that_cannot_be(broker: CoreHarness, method: str, params: dict[str, Any]) -> None:
    ask(broker, method, **params)
    refused(broker, "invalid_params")


def test_bounds_and_the_operators_no() -> None:
    for settings, reason in (
        ({"max_definitions": 0}, "not_allowed"),
        ({"max_definition_bytes": 5}, "definitions_full"),
    ):
        broker = CoreHarness(**settings)
        broker.join_client(A)
        broker.join_worker(W, "pool", programs=("_inline", "_define"))
        ask(broker, "programs.define", name="sum", spec=SPEC)
        refused(broker, reason)
    broker = CoreHarness(max_definitions=1)
    broker.join_client(A)
    broker.join_worker(W, "pool", programs=("_inline", "_define"))
    define(broker)
    ask(broker, "programs.define", name="other", spec=SPEC)
    refused(broker, "definitions_full")


class Failing:
    """A keeper whose disk is full."""

    def define(self, *_: Any) -> None:
        raise ProtocolError("store_failed", "disk full")

    undefine = set_alias = define


def test_what_cannot_be_kept_is_not_promised(broker: CoreHarness) -> None:
    keeper = Failing()
    broker.core = BrokerCore(broker.settings, EPOCH, Definitions(most=9, most_bytes=999, keeper=keeper))
    broker.client(A, Hello(name="a", features=["ack"]))
    broker.join_worker(W, "pool", programs=("_inline", "_define"))
    ask(broker, "programs.define", name="sum", spec=SPEC)
    checked(broker, SPEC)
    assert refused(broker, "store_failed").retryable
    broker.submit(A, "j", "sum")
    refused(broker, "unknown_program")
