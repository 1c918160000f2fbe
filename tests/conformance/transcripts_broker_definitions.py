"""transcripts/broker-definitions.json: programs as data, and aliases (SPEC section 11.10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.conformance.vector_steps import Peer, Transcript, get, put

OFFERS = [{"name": name, "revision": "r1"} for name in ("qa", "_inline", "_define")]
OLD, NEW = {"signature": "text -> summary"}, {"signature": "text -> summary, title"}
DESCRIBED = {"description": "Sums up.", "inputs": {"type": "object"}, "outputs": {"type": "object"}}


def transcripts() -> Iterator[Transcript]:
    """In the order of the rules."""
    yield from _define()
    yield from _run()
    yield from _aliases()


def _started(name: str, rules: str, about: str, **settings: Any) -> tuple[Transcript, Peer, Peer]:
    t = Transcript(name, rules, about, fresh=True, **settings)
    return t, t.client(), t.worker(programs=OFFERS)


def _ask(c: Peer, spec: dict[str, Any], rid: str = "d") -> None:
    c.send("request", {"params": {"name": "sum", "spec": spec}}, rid=rid, method="programs.define")


def _defined(c: Peer, w: Peer, spec: dict[str, Any], label: str) -> None:
    """Defined, after the worker was asked."""
    _ask(c, spec)
    w.expect("dispatch", {"inputs": {}, "spec": spec}, program="_define", lease=put(f"{label}.lease"), attempt=1)
    w.result(label, body={"outputs": DESCRIBED})
    result = {"name": "sum", "revision": put(f"{label}.revision"), "created": True}
    c.expect("reply", {"result": result}, rid="d")


def _define() -> Iterator[Transcript]:
    about = "A spec is shown to a worker before it is taken; the same content is the same revision."
    t, c, w = _started("define", "R-11.28 R-11.30", about)
    _defined(c, w, OLD, "old")
    again = {"name": "sum", "revision": get("old.revision"), "created": False}
    c.ask("programs.define", again, name="sum", spec=OLD)
    rows = {"name": "sum", "revision": get("old.revision"), "workers": ["w"], "defined": [get("old.revision")]}
    c.ask("programs.get", {**DESCRIBED, **rows, "spec": OLD}, name="sum", spec=True)
    yield t
    about = "What its worker refuses is not defined, and the worker's words are the answer."
    t, c, w = _started("define-refused", "R-11.30", about)
    _ask(c, {"signature": "text ->"})
    w.expect("dispatch", program="_define", lease=put("bad.lease"), attempt=1)
    details = {"position": 7}
    w.result("bad", "INVALID_ARGUMENT", reason="invalid_spec", message="no outputs", details=details)
    c.refused("invalid_spec", rid="d", message="no outputs", details=details)
    c.submit("j", "sum").refused("unknown_program", job="j")
    yield t
    about = "Names have bounds, and so have all definitions; clients cannot submit to _define."
    t, c, w = _started("define-bounds", "R-11.29 R-11.37 R-11.9", about, max_definitions=1)
    for name in ("a@b", "_a", "a" * 65):
        c.ask_refused("programs.define", "invalid_params", name=name, spec=OLD)
    c.ask_refused("programs.define", "invalid_params", name="a", spec="text")
    c.submit("j", "_define").refused("unknown_program", job="j")
    _defined(c, w, OLD, "old")
    c.ask_refused("programs.define", "definitions_full", name="sum", spec=NEW)
    w.nothing()
    yield t
    about = "Without a worker that takes programs as data nothing can be defined; nor where the operator says no."
    t = Transcript("define-without-a-worker", "R-11.30", about, fresh=True)
    c = t.client()
    t.worker()
    c.ask_refused("programs.define", "no_worker", name="sum", spec=OLD)
    yield t
    t, c, w = _started(
        "define-not-allowed", "R-11.37", "An operator may let nobody define programs.", max_definitions=0
    )
    c.ask_refused("programs.define", "not_allowed", name="sum", spec=OLD)
    w.nothing()
    yield t


def _run() -> Iterator[Transcript]:
    about = "A defined program goes to a worker that takes specs, at its newest revision or the one that is named."
    t, c, w = _started("run-what-is-defined", "R-11.32 R-11.33", about)
    _defined(c, w, OLD, "old")
    _defined(c, w, NEW, "new")
    plain = t.worker("plain", slots=9)
    c.submit("j", "sum")
    w.dispatch("j", program="sum", revision=get("new.revision"), defined=True)
    params = {"name": "sum", "revision": get("new.revision"), "spec": True}
    w.send("request", {"params": params}, rid="1", method="programs.get")
    w.expect("reply", {"result": {"name": "sum", "spec": NEW}}, rid="1")
    w.result("j")
    c.done("j").submit("k", "sum", revision=get("old.revision"))
    w.dispatch("k", program="sum", revision=get("old.revision")).result("k")
    c.done("k")
    plain.nothing()
    yield t
    about = "What is forgotten is not run any more; what an alias stands for is not forgotten."
    t, c, w = _started("undefine", "R-11.35", about)
    _defined(c, w, OLD, "old")
    c.ask("programs.alias", name="sum", alias="prod", revision=get("old.revision"))
    asked = {"name": "sum", "revision": get("old.revision")}
    c.ask_refused("programs.undefine", "aliased", **asked)
    c.ask("programs.alias", name="sum", alias="prod")
    c.ask("programs.undefine", asked, **asked)
    c.ask_refused("programs.undefine", "unknown_revision", **asked)
    c.submit("j", "sum", want=["accepted"]).expect("accepted", job="j", waiting=True, missing=["program"])
    w.nothing()
    yield t


def _aliases() -> Iterator[Transcript]:
    about = "An alias stands for a revision until it is moved, and moves only from where it was expected."
    t, c, w = _started("aliases", "R-11.34", about)
    _defined(c, w, OLD, "old")
    _defined(c, w, NEW, "new")
    moved = {"name": "sum", "alias": "prod"}
    c.ask(
        "programs.alias",
        {**moved, "revision": get("old.revision"), "before": None},
        **moved,
        revision=get("old.revision"),
    )
    c.submit("a", "sum@prod")
    w.dispatch("a", program="sum", revision=get("old.revision")).result("a")
    c.done("a")
    c.ask_refused("programs.alias", "alias_moved", **moved, revision=get("new.revision"), expect=get("new.revision"))
    c.ask("programs.alias", **moved, revision=get("new.revision"), expect=get("old.revision"))
    c.submit("b", "sum@prod")
    w.dispatch("b", program="sum", revision=get("new.revision")).result("b")
    c.done("b")
    c.submit("d", "sum@test").refused("unknown_program", job="d", details={"close_matches": ["sum@prod"]})
    c.ask_refused("programs.alias", "unknown_revision", **moved, revision="nobody's")
    c.ask("programs.alias", {"before": None}, name="qa", alias="stable", revision="r1")
    c.submit("e", "qa@stable")
    w.dispatch("e", program="qa", revision="r1").result("e")
    c.done("e")
    yield t
