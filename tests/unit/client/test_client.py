"""Client: the same behind a thread, for callers without a loop."""

import asyncio
import gc
import multiprocessing
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dspymq import exceptions
from dspymq.client import Client
from dspymq.protocol import client_messages as cm
from dspymq.protocol import messages as m
from dspymq.testing import FakeBroker


def upper(question: str) -> dict[str, str]:
    return {"answer": question.upper()}


def letters(question: str) -> Iterator[dict[str, str]]:
    for letter in question:
        yield {"answer": letter}
    return {"answer": question}


async def never(question: str) -> dict[str, str]:
    await asyncio.Event().wait()
    return {}


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker({"qa": upper, "letters": letters, "never": never})


@pytest.fixture
def client(broker: FakeBroker) -> Iterator[Client]:
    with Client(transport=broker.transport()) as client:
        yield client


def test_call_submit_stream_and_requests(client: Client):
    assert client.call("qa", question="why").answer == "WHY"
    job = client.submit("qa", {"question": "why"})
    assert job.result(timeout_s=10).answer == "WHY"
    assert job.done()
    assert job.exception() is None
    job = client.stream("letters", question="abc")
    assert [chunk.text for chunk in job] == ["a", "b", "c"]
    assert job.text == {"answer": "abc"}
    assert job.result().answer == "abc"
    assert [row["name"] for row in client.programs()] == ["letters", "never", "qa"]
    assert client.workers() == []
    assert client.stats()["epoch"]
    assert client.ping() > 0
    with pytest.raises(exceptions.Unimplemented):
        client.request("no.such")


def test_errors_come_through(client: Client):
    with pytest.raises(exceptions.NotFound):
        client.call("nothing")
    with pytest.raises(exceptions.InvalidArgument):
        client.submit("qa", {"question": object()})
    with pytest.raises(exceptions.FailedPrecondition, match="stream=True"):
        list(client.submit("qa", {"question": "x"}))
    with pytest.raises(exceptions.AlreadyExists):
        client.submit("never", {"question": "x"}, job_id="same")
        client.submit("never", {"question": "x"}, job_id="same").result(timeout_s=10)


def test_wait_that_is_given_up_leaves_the_job_and_cancel_ends_it(client: Client, broker: FakeBroker):
    job = client.submit("never", {"question": "x"})
    with pytest.raises(TimeoutError):
        job.result(timeout_s=0.02)
    assert not job.done()
    job.cancel()
    with pytest.raises(exceptions.Cancelled):
        job.result(timeout_s=10)


def test_view_has_other_defaults_over_the_same_connection(client: Client, broker: FakeBroker):
    client.with_options(profile="fast", timeout_s=3).call("qa", question="x")
    client.call("qa", question="x")
    assert [submit.profile for submit in broker.seen(cm.Submit)] == ["fast", None]
    assert len(broker.seen(m.Hello)) == 1


def test_many_threads_share_one_client(client: Client):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: client.call("qa", question=f"q{n}").answer, range(400)))
    assert answers == [f"Q{n}" for n in range(400)]


def test_map_in_order_reads_only_as_far_as_needed(client: Client):
    taken = 0

    def endless() -> Iterator[dict[str, str]]:
        nonlocal taken
        while True:
            taken += 1
            yield {"question": f"q{taken}"}

    results = client.map("qa", endless(), concurrency=3)
    assert [next(results).answer for _ in range(50)] == [f"Q{n}" for n in range(1, 51)]
    assert taken <= 50 + 3 * 8


def test_map_that_is_left_cancels_what_is_in_flight(client: Client, broker: FakeBroker):
    broker.programs["first"] = lambda question: upper(question) if question == "q0" else never(question)
    results = client.map("first", ({"question": f"q{n}"} for n in range(50)), concurrency=4)
    assert next(results).answer == "Q0"
    client.ping()
    started = len(broker.seen(cm.Submit))
    results.close()
    client.ping()
    assert len(broker.seen(cm.Cancel)) == started - 1 >= 3


def test_closing_the_client_ends_a_map(client: Client):
    ended: list[BaseException] = []

    def read() -> None:
        try:
            list(client.map("never", ({"question": "x"} for _ in range(9)), concurrency=4))
        except exceptions.ClientClosed as error:
            ended.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    client.ping()
    client.close()
    reader.join(10)
    assert len(ended) == 1


def test_map_returns_errors_in_their_place_if_asked(client: Client, broker: FakeBroker):
    def picky(question: str) -> dict[str, str]:
        if question == "bad":
            raise ValueError("no")
        return {"answer": question}

    broker.programs["picky"] = picky
    inputs = [{"question": q} for q in ("a", "bad", "b")]
    kinds = [type(r).__name__ for r in client.map("picky", inputs, return_exceptions=True)]
    assert kinds == ["Prediction", "ProgramError", "Prediction"]
    with pytest.raises(exceptions.ProgramError):
        list(client.map("picky", inputs))


def test_done_callbacks_are_called_once_also_when_late(client: Client):
    job = client.submit("qa", {"question": "x"})
    calls: list[str] = []
    ended = threading.Event()
    job.add_done_callback(lambda: calls.append("early"))
    job.add_done_callback(ended.set)
    assert ended.wait(10)
    job.add_done_callback(lambda: calls.append("late"))
    assert calls == ["early", "late"]


def test_failing_callback_harms_nobody(client: Client, caplog: pytest.LogCaptureFixture):
    job = client.submit("never", {"question": "x"})
    ended = threading.Event()
    job.add_done_callback(lambda: 1 / 0)
    job.add_done_callback(ended.set)
    job.cancel()
    assert ended.wait(10)
    assert client.call("qa", question="x").answer == "X"
    assert "ZeroDivisionError" in caplog.text


def test_waiting_on_the_clients_own_thread_is_refused(client: Client):
    waited: list[BaseException] = []
    ended = threading.Event()

    def wait_there() -> None:
        for wait in (lambda: client.submit("qa", {"question": "y"}).result(), client.ping):
            try:
                wait()
            except RuntimeError as error:
                waited.append(error)
        ended.set()

    job = client.submit("never", {"question": "x"})
    job.add_done_callback(wait_there)
    job.cancel()
    assert ended.wait(10)
    assert ["own thread" in str(error) for error in waited] == [True, True]


def test_close_fails_open_jobs_and_later_calls(client: Client, broker: FakeBroker):
    job = client.submit("never", {"question": "x"})
    client.ping()
    client.close()
    with pytest.raises(exceptions.ClientClosed, match="while this job was open"):
        job.result(timeout_s=10)
    for later in (lambda: client.call("qa", question="x"), client.ping, client.programs):
        with pytest.raises(exceptions.ClientClosed):
            later()
    job.cancel()
    client.close()
    assert len(broker.seen(m.Bye)) == 1


def test_close_wakes_readers_and_waiters(client: Client):
    outcomes: list[str] = []

    def watch(wait) -> None:
        try:
            wait()
        except exceptions.DspymqError as error:
            outcomes.append(error.reason)

    job = client.stream("never", question="x")
    threads = [threading.Thread(target=watch, args=(w,)) for w in (job.result, lambda: list(job))]
    for thread in threads:
        thread.start()
    client.ping()
    client.close()
    for thread in threads:
        thread.join(10)
    assert outcomes == ["client_closed", "client_closed"]


def test_collected_client_says_bye_and_ends_its_thread(broker: FakeBroker):
    client = Client(transport=broker.transport())
    client.call("qa", question="x")
    thread = client._shared.thread._thread
    gone = weakref.ref(client)
    view = client.with_options(timeout_s=1)
    del client
    gc.collect()
    assert gone() is None
    assert view.call("qa", question="y").answer == "Y"
    del view
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert len(broker.seen(m.Bye)) == 1


def test_client_that_nobody_holds_lives_as_long_as_its_jobs(broker: FakeBroker):
    job = Client(transport=broker.transport()).submit("never", {"question": "x"})
    gc.collect()
    with pytest.raises(TimeoutError):
        job.result(timeout_s=0.02)
    thread = job._thread._thread
    job.cancel()
    with pytest.raises(exceptions.Cancelled):
        job.result(timeout_s=10)
    del job
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_works_beside_a_running_loop(client: Client):
    async def in_a_notebook() -> str:
        answer: str = client.call("qa", question="x").answer
        return answer

    assert asyncio.run(in_a_notebook()) == "X"


def _in_child(client: Client, queue) -> None:
    for use in (lambda: client.call("qa", question="x"), client.ping, client.close):
        try:
            use()
        except exceptions.FailedPrecondition as error:
            queue.put((error.reason, "fork" in error.message))


def test_forked_child_is_told_and_the_parent_goes_on(client: Client):
    assert client.call("qa", question="x").answer == "X"
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(client, queue))
    child.start()
    assert [queue.get() for _ in range(3)] == [("forked", True)] * 3
    child.join(10)
    assert child.exitcode == 0
    assert client.call("qa", question="y").answer == "Y"


def test_client_that_is_collected_while_a_lock_is_held_does_not_wait(broker: FakeBroker):
    lock = threading.Lock()

    def needs_the_lock() -> None:
        with lock:
            pass

    client = Client(transport=broker.transport())
    client.call("qa", question="x")
    thread = client._shared.thread
    with lock:
        thread.call(needs_the_lock)
        del client
        gc.collect()
    thread._thread.join(10)
    assert not thread._thread.is_alive()


def test_close_races_callers_and_leaves_none_waiting(broker: FakeBroker):
    for _ in range(20):
        client = Client(transport=broker.transport())
        go = threading.Barrier(5)
        outcomes: list[object] = []

        def use(client: Client = client, go: threading.Barrier = go, outcomes: list[object] = outcomes) -> None:
            go.wait()
            for call in (client.ping, client.programs, lambda: client.call("qa", question="x").answer):
                try:
                    outcomes.append(call())
                except exceptions.ClientClosed:
                    outcomes.append(None)

        threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        go.wait()
        client.close()
        for thread in threads:
            thread.join(10)
        assert len(outcomes) == 12
