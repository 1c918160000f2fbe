"""Reload in the pool's core: a second generation, the change-over in one `ready`, and broken new versions."""

from typing import Any

from dspymq.protocol import body
from dspymq.protocol import worker_messages as w
from dspymq.protocol.messages import Bye, Ping, Pong
from dspymq.worker.supervisor import effects as ef
from dspymq.worker.supervisor import events as ev
from dspymq.worker.supervisor.core import EXIT_PROGRAMS
from tests.unit.worker.pool_rig import WELCOME, Rig, error


def ready(rig: Rig, executor: str, revision: str = "new", **described: Any) -> None:
    """An executor of a new version is ready."""
    rig.do(ev.ExecutorStarted(executor, 100 + int(executor.split("/")[1])))
    offers = [w.Offer(name="p", revision=revision)]
    message = w.Ready(worker=executor, slots=rig.slots_of, programs=offers, profiles=["default"])
    rig.do(ev.FromExecutor(executor, message, body.encode(programs={"p": {}}, **described)))


def started(rig: Rig) -> list[tuple[str, int]]:
    return [(e.executor, e.generation) for e in rig.effects if isinstance(e, ef.StartExecutor)]


def ended(rig: Rig) -> list[int]:
    return [e.generation for e in rig.effects if isinstance(e, ef.EndGeneration)]


def problem(rig: Rig, what: str = "reload") -> str:
    return str(rig.shown().get(what, {}).get("problem", ""))


def test_a_reload_starts_one_then_all_then_changes_over_in_one_ready() -> None:
    rig = Rig(processes=2).running()
    assert rig.start_job("old") == "pool/1"
    rig.do(ev.Reload("SIGHUP"))
    assert started(rig) == [("pool/3", 2)]
    ready(rig, "pool/3")
    assert started(rig) == [("pool/4", 2)]
    assert rig.last_ready().programs == [w.Offer(name="p", revision="r")]
    assert rig.last_ready().slots == {"default": 8}
    assert rig.shown()["pool/3"]["state"] == "standby"
    assert rig.dispatch("meanwhile") in ("pool/1", "pool/2")
    ready(rig, "pool/4")
    told = rig.sent(w.Ready)
    assert [one.programs for one in told] == [[w.Offer(name="p", revision="new")]]
    assert told[0].slots == {"default": 10}, "eight that are new, and two that still run"
    assert rig.dispatch("next", revision="new") in ("pool/3", "pool/4")


def changed_over() -> Rig:
    rig = Rig(processes=1).running()
    rig.do(ev.Reload("test"))
    ready(rig, "pool/2")
    return rig


def test_what_was_on_its_way_runs_at_its_revision_until_the_broker_is_known_to_have_heard() -> None:
    rig = changed_over()
    assert rig.told(Bye) == []
    assert len(rig.sent(Ping)) == 1
    assert rig.start_job("late", revision="r") == "pool/1"
    rig.pong()
    assert rig.told(Bye) == []
    rig.finish("pool/1", "late")
    assert rig.told(Bye) == [("pool/1", Bye(reason="done"))]
    rig.gone("pool/1", 0)
    assert ended(rig) == [1]
    assert started(rig) == []


def test_a_job_for_a_revision_that_is_gone_comes_again_at_another() -> None:
    """Not to be answered as if it had never been here."""
    rig = changed_over()
    rig.pong()
    rig.gone("pool/1", 0)
    before = len(rig.history)
    assert rig.dispatch("late", revision="r") == ""
    sent = [e.message for e in rig.history[before:] if isinstance(e, ef.ToBroker)]
    released = [message for message in sent if isinstance(message, w.Released)]
    assert [(r.started, r.cause) for r in released] == [(False, "capacity")]
    assert any(isinstance(message, w.Ready) for message in sent[sent.index(released[0]) :]), "it is avoided until then"
    assert rig.dispatch("never", revision="unheard-of") == "pool/2", "its executor says that it is unknown"


def test_without_a_session_nothing_can_be_on_its_way() -> None:
    rig = Rig(processes=1).running()
    rig.do(ev.Reload("test"))
    rig.do(ev.SessionDown())
    ready(rig, "pool/2")
    assert rig.told(Bye) == [("pool/1", Bye(reason="done"))]


def test_a_session_that_ends_before_its_pong_does_not_keep_them() -> None:
    rig = changed_over()
    late = rig.start_job("late", revision="r")
    first = [e.message.n for e in rig.history if isinstance(e, ef.ToBroker) and isinstance(e.message, Ping)]
    rig.resync()
    rig.finish(late, "late")
    rig.broker(w.Ack(leases=["late"]))
    assert rig.told(Bye) == []
    again = [e.message.n for e in rig.history if isinstance(e, ef.ToBroker) and isinstance(e.message, Ping)]
    assert len(again) > len(first), "the ping of another session has no answer"
    rig.pong()
    assert rig.told(Bye) == [("pool/1", Bye(reason="done"))]


def test_jobs_that_wait_for_a_process_of_their_own_are_given_back_at_the_change() -> None:
    rig = Rig(processes=1).running()
    rig.dispatch("alone", isolate=True)
    rig.do(ev.Reload("test"))
    ready(rig, "pool/3")
    assert [(r.lease, r.started) for r in rig.sent(w.Released)] == [("alone", False)]
    assert rig.kills() == ["pool/2"], "the isolated one of the old generation is not needed"
    rig.dispatch("again", isolate=True, revision="new")
    rig.ready("pool/2")
    assert rig.told(w.Dispatch) == [], "it came up just before it was killed"
    rig.gone("pool/2")
    assert [generation for _, generation in started(rig)] == [2]


def test_an_isolated_job_goes_on_over_a_reload() -> None:
    rig = Rig(processes=1).running()
    rig.dispatch("alone", isolate=True)
    rig.ready("pool/2")
    rig.started("pool/2", "alone")
    rig.do(ev.Reload("test"))
    ready(rig, "pool/3")
    rig.gone("pool/1", 0)
    assert ended(rig) == []
    rig.finish("pool/2", "alone")
    rig.gone("pool/2", 0)
    assert ended(rig) == [1]


def test_a_broken_new_version_is_said_once_and_shown_and_the_old_one_serves() -> None:
    rig = Rig(processes=1).running()
    for number in (2, 3):
        rig.do(ev.Reload("test"))
        rig.do(ev.ExecutorStarted(f"pool/{number}", 7))
        rig.executor(f"pool/{number}", error("programs_failed", "app: SyntaxError (app.py, line 3)"))
        assert "line 3" in problem(rig)
        rig.gone(f"pool/{number}", 3)
        assert ended(rig) == [number]
        assert started(rig) == []
        assert rig.last_ready().programs == [w.Offer(name="p", revision="r")]
        assert rig.last_ready().slots == {"default": 4}
    assert sum("line 3" in text for text in rig.logs()) == 1
    assert rig.exits() == []
    assert rig.start_job("x") == "pool/1"
    rig.do(ev.Reload("mended"))
    ready(rig, "pool/4")
    rig.wait(200, beating=("pool/1", "pool/4"))
    assert problem(rig) == ""
    assert rig.last_ready().programs == [w.Offer(name="p", revision="new")]


def test_a_program_that_fails_in_the_new_version_keeps_it_from_serving() -> None:
    rig = Rig(processes=1).running()
    rig.do(ev.Reload("test"))
    ready(rig, "pool/2", problems={"app:q": "app: q() failed: KeyError (app.py, line 9)"})
    assert "line 9" in problem(rig)
    assert rig.kills() == ["pool/2"]
    rig.gone("pool/2")
    assert rig.last_ready().programs == [w.Offer(name="p", revision="r")]


def test_what_was_broken_before_keeps_nobody_else_from_a_new_version() -> None:
    rig = Rig(processes=1)
    rig.do(ev.Start())
    broken = {"app:q": "app: q() failed: KeyError (app.py, line 9)"}
    ready(rig, "pool/1", "r", problems=broken)
    rig.do(ev.SessionUp(WELCOME))
    rig.broker(w.Synced())
    assert rig.shown()["app:q"]["problem"] == broken["app:q"]
    assert rig.shown()["app:q"]["pid"] is None
    rig.do(ev.Reload("test"))
    ready(rig, "pool/2", problems=broken)
    assert rig.last_ready().programs == [w.Offer(name="p", revision="new")]
    rig.do(ev.Reload("test"))
    ready(rig, "pool/3", "newer")
    assert "app:q" not in rig.shown()
    assert sum("line 9" in text for text in rig.logs()) == 1


def test_a_new_version_whose_process_dies_is_tried_three_times() -> None:
    rig = Rig(processes=1).running()
    rig.do(ev.Reload("test"))
    for number in (2, 3):
        rig.do(ev.ExecutorGone(f"pool/{number}", -11, "Segmentation fault | app.py, line 4"))
        assert started(rig) == [(f"pool/{number + 1}", 2)]
    rig.do(ev.ExecutorGone("pool/4", -11, "Segmentation fault | app.py, line 4"))
    assert started(rig) == []
    assert "line 4" in problem(rig)
    assert "-11" in problem(rig)
    assert ended(rig) == [2]


def test_a_reload_in_a_reload_begins_anew() -> None:
    rig = Rig(processes=2).running()
    rig.do(ev.Reload("first"))
    ready(rig, "pool/3", "half")
    rig.do(ev.Reload("second"))
    assert sorted(rig.kills()) == ["pool/3", "pool/4"]
    assert started(rig) == [("pool/5", 3)]
    rig.gone("pool/3")
    rig.gone("pool/4")
    ready(rig, "pool/5")
    ready(rig, "pool/6")
    rig.wait(200, beating=("pool/5", "pool/6"))
    assert rig.last_ready().programs == [w.Offer(name="p", revision="new")]


def test_an_import_that_never_ends_is_given_up_by_the_next_reload() -> None:
    """Nobody ever forks its executor: its fork server is ended without waiting for that."""
    rig = Rig(processes=1).running()
    rig.do(ev.Reload("hangs"))
    rig.do(ev.Reload("mended"))
    assert started(rig) == [("pool/3", 3)]
    ready(rig, "pool/3")
    assert 2 in ended(rig)


def test_executors_die_and_are_replaced_in_their_own_generation_during_a_reload() -> None:
    rig = Rig(processes=2).running()
    rig.wait(1_000, beating=("pool/1", "pool/2"))
    rig.do(ev.Reload("test"))
    rig.gone("pool/1")
    assert started(rig) == [("pool/4", 1)]
    ready(rig, "pool/3")
    ready(rig, "pool/5")
    assert rig.kills() == ["pool/4"], "what only starts has nothing to finish"
    assert rig.last_ready().slots == {"default": 8}
    rig.gone("pool/4")
    rig.pong()
    rig.gone("pool/2", 0)
    assert ended(rig) == [1]
    rig.wait(1_000, beating=("pool/3", "pool/5"))
    rig.gone("pool/3")
    assert started(rig) == [("pool/6", 2)]


def test_a_retiring_executor_that_dies_gives_its_jobs_back() -> None:
    rig = changed_over()
    assert rig.start_job("late", revision="r") == "pool/1"
    rig.gone("pool/1")
    assert [(r.lease, r.blame) for r in rig.sent(w.Released)] == [("late", "self")]
    assert started(rig) == []


def test_a_reload_while_it_stops_does_nothing() -> None:
    rig = Rig(processes=1).running()
    rig.start_job("j")
    rig.do(ev.Shutdown())
    rig.do(ev.Reload("late"))
    assert started(rig) == []


def test_a_pool_that_waits_for_changes_does_not_end_when_nothing_can_be_loaded() -> None:
    rig = Rig(processes=1, patient=True)
    rig.do(ev.Start())
    rig.do(ev.SessionUp(WELCOME))
    rig.do(ev.ExecutorStarted("pool/1", 1))
    rig.executor("pool/1", error("programs_failed", "app: ZeroDivisionError (app.py, line 1)"))
    assert rig.exits() == []
    first = rig.sent(w.Ready)
    assert [(one.held, one.more, one.programs, one.slots) for one in first] == [([], True, [], {})]
    assert "line 1" in problem(rig, "start")
    rig.broker(w.Synced())
    assert not rig.core._link.synced, "it has not reported yet"
    rig.gone("pool/1", 3)
    rig.do(ev.Reload("changed: app.py"))
    ready(rig, "pool/2")
    rig.broker(w.Synced())
    assert rig.last_ready().programs == [w.Offer(name="p", revision="new")]
    assert problem(rig, "start") == ""
    assert rig.start_job("x", revision="new") == "pool/2"


def test_a_pool_whose_processes_end_at_their_start_says_why_once_and_is_shown() -> None:
    rig = Rig(processes=2)
    rig.do(ev.Start())
    rig.do(ev.SessionUp(WELCOME))
    number = 0
    for _ in range(12):
        for _ in range(2):
            number += 1
            # Causes may take turns.
            word = ("index", "weights")[number % 2]
            rig.do(ev.ExecutorGone(f"pool/{number}", 7, f"cannot open the {word} | app.py, line 5"))
            if rig.sent(w.Ready):
                assert rig.sent(w.Ready)[0].more
                rig.do(ev.FromBroker(w.Synced()))
        rig.wait(6_000)
    assert sum("cannot open the index" in text for text in rig.logs()) == 1
    assert sum("cannot open the weights" in text for text in rig.logs()) == 1
    assert sum("pool.backoff" in text for text in rig.logs()) <= 7
    assert "exit code 7" in problem(rig, "start")
    rig.ready(f"pool/{number + 1}")
    rig.broker(w.Synced())
    assert problem(rig, "start") == ""
    assert rig.last_ready().programs == [w.Offer(name="p", revision="r")]
    assert rig.start_job("x") == f"pool/{number + 1}"


def test_nothing_is_shown_of_a_pool_that_merely_starts() -> None:
    rig = Rig(processes=1)
    rig.do(ev.Start())
    rig.do(ev.SessionUp(WELCOME))
    assert rig.sent(w.Ready) == []


def test_without_patience_it_ends_with_one_line() -> None:
    rig = Rig(processes=1)
    rig.do(ev.Start())
    rig.executor("pool/1", error("programs_failed", "why"))
    assert rig.exits() == [EXIT_PROGRAMS]


def test_an_executor_that_imported_changed_files_by_itself_begins_a_reload() -> None:
    """Spawned ones do: two versions in one generation would be asked for what they have not."""
    rig = Rig(processes=2, spawn=True).running()
    rig.wait(1_000, beating=("pool/1", "pool/2"))
    rig.gone("pool/1")
    ready(rig, "pool/3")
    assert rig.kills() == ["pool/3"]
    assert started(rig) == [("pool/4", 2)]
    rig.gone("pool/3")
    assert started(rig) == []
    assert rig.last_ready().programs == [w.Offer(name="p", revision="r")]
    ready(rig, "pool/4")
    ready(rig, "pool/5")
    rig.wait(200, beating=("pool/2", "pool/4", "pool/5"))
    assert rig.last_ready().programs == [w.Offer(name="p", revision="new")]
    assert rig.last_ready().slots == {"default": 8}


def test_a_pool_that_died_as_a_whole_takes_what_is_there_now() -> None:
    """A fork server that was killed imports anew."""
    rig = Rig(processes=1).running()
    rig.wait(1_000, beating=("pool/1",))
    rig.gone("pool/1")
    ready(rig, "pool/2")
    assert rig.last_ready().programs == [w.Offer(name="p", revision="new")]
    assert rig.start_job("x", revision="new") == "pool/2"
    before = len(rig.history)
    assert rig.dispatch("late", revision="r") == ""
    sent = [e.message for e in rig.history[before:] if isinstance(e, ef.ToBroker)]
    assert [(m.started, m.cause) for m in sent if isinstance(m, w.Released)] == [(False, "capacity")]


def test_pongs_of_other_pings_prove_nothing() -> None:
    rig = changed_over()
    rig.broker(Pong(n=0))
    assert rig.told(Bye) == []


def test_what_waits_for_a_process_of_its_own_is_given_back_if_the_pool_comes_back_as_another() -> None:
    """Its processes died with their fork server, which imported changed files when it was started again."""
    rig = Rig(processes=1).running()
    rig.wait(1_000, beating=("pool/1",))
    rig.gone("pool/1")
    rig.dispatch("alone", isolate=True)
    before = len(rig.history)
    ready(rig, "pool/2")
    ready(rig, "pool/3")
    later = rig.history[before:]
    released = [e.message for e in later if isinstance(e, ef.ToBroker) and isinstance(e.message, w.Released)]
    assert [(one.lease, one.started, one.cause) for one in released] == [("alone", False, "capacity")]
    assert not [e for e in later if isinstance(e, ef.ToExecutor) and isinstance(e.message, w.Dispatch)]
