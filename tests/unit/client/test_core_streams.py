"""Streams: order, attempts, resets, gaps, credit."""

from dspymq import events as ev
from dspymq.chunks import Chunk
from dspymq.protocol import client_messages as cm
from tests.unit.client.core_bench import Bench, live_bench


def streaming(window: int | None = 8) -> Bench:
    bench = live_bench()
    bench.submit(want=["chunks"], window=window)
    return bench


def test_chunks_come_in_order_and_the_result_adds_nothing():
    bench = streaming()
    bench.chunk(0, "a")
    assert bench.text() == [("answer", "a", False)]
    bench.chunk(1, "b")
    assert bench.text() == [("answer", "b", False)]
    bench.result(outputs={"answer": "ab"}, chunks=2)
    assert bench.text() == []


def test_several_fields_of_one_chunk_come_one_by_one():
    bench = streaming()
    bench.receive(cm.Chunk(job="j1", attempt=1, seq=0), fields={"reasoning": "r", "answer": "a", "bad": 3, 4: "bad"})
    assert bench.text() == [("reasoning", "r", False), ("answer", "a", False)]
    bench.receive(cm.Chunk(job="j1", attempt=1, seq=1, reset=True), fields={"reasoning": "rr", "answer": "aa"})
    assert bench.text() == [("reasoning", "rr", True), ("answer", "aa", False)]


def test_chunk_without_text_shows_nothing():
    bench = streaming()
    bench.chunk(0)
    assert bench.outputs == []
    bench.chunk(1, "a")
    bench.feed(ev.Received(cm.Chunk(job="j1", attempt=1, seq=2), b"\xc1"))
    assert bench.outputs == []
    bench.result(outputs={"answer": "a"}, chunks=3)
    assert bench.text() == []


def test_duplicate_chunk_is_dropped():
    bench = streaming()
    bench.chunk(0, "a")
    bench.chunk(0, "a")
    assert bench.text() == []


def test_chunks_of_a_job_that_does_not_stream_or_is_gone_are_dropped():
    bench = live_bench()
    bench.submit()
    bench.chunk(0, "a")
    assert bench.outputs == []
    bench.chunk(0, "a", job="nobody")
    assert bench.outputs == []


def test_another_attempt_voids_the_text_and_the_earlier_attempt_is_dropped():
    bench = streaming()
    bench.chunk(0, "old")
    bench.chunk(0, "new", attempt=2, reset=True)
    assert bench.text() == [("answer", "new", True)]
    bench.chunk(1, "old again", attempt=1)
    assert bench.text() == []
    bench.result(outputs={"answer": "new"}, attempt=2, chunks=1)
    assert bench.text() == []


def test_another_attempt_voids_the_text_also_without_reset():
    bench = streaming()
    bench.chunk(0, "old")
    bench.chunk(0, "new", attempt=2)
    assert bench.text() == [("answer", "new", True)]


def test_start_of_another_attempt_voids_the_text():
    bench = streaming()
    bench.receive(cm.Started(job="j1", attempt=1, revision="r", worker="w"))
    assert bench.text() == []
    bench.chunk(0, "old")
    bench.receive(cm.Started(job="j1", attempt=2, revision="r", worker="w"))
    assert bench.text() == [("", "", True)]
    bench.chunk(0, "new", attempt=2, reset=True)
    assert bench.text() == [("answer", "new", True)]


def test_accepted_with_a_greater_attempt_voids_the_text():
    bench = streaming()
    bench.chunk(0, "old")
    bench.receive(cm.Accepted(job="j1", state="running", attempt=2))
    assert bench.text() == [("", "", True)]


def test_reset_replaces_and_seq_goes_on():
    bench = streaming()
    bench.chunk(0, "a")
    bench.chunk(5, "abcde", reset=True)
    assert bench.text() == [("answer", "abcde", True)]
    bench.chunk(6, "f")
    bench.result(outputs={"answer": "abcdef"}, chunks=7)
    assert bench.text() == []


def test_reconnect_in_the_middle_of_a_stream():
    bench = streaming()
    bench.chunk(0, "a")
    bench.feed(ev.LinkDown())
    bench.live(session="s2")
    assert bench.sent(cm.Submit)[0].want == ["chunks"]
    assert bench.sent(cm.Submit)[0].window == 8
    bench.chunk(3, "abc", reset=True)
    assert bench.text() == [("answer", "abc", True)]
    bench.chunk(4, "d")
    bench.result(outputs={"answer": "abcd"}, chunks=5)
    assert bench.text() == []


def rejoined(bench: Bench, epoch: str = "epoch-1") -> Bench:
    bench.feed(ev.LinkDown())
    bench.live(epoch, "s2")
    return bench


def test_chunks_under_way_at_a_reconnect_are_left_to_the_reset():
    bench = streaming()
    bench.chunk(0, "a")
    rejoined(bench)
    bench.chunk(3, "d")
    assert bench.text() == []
    bench.chunk(4, "abcde", reset=True)
    assert bench.text() == [("answer", "abcde", True)]


def test_chunk_that_follows_is_taken_also_after_a_reconnect():
    bench = streaming()
    bench.chunk(0, "a")
    rejoined(bench)
    bench.chunk(1, "b")
    assert bench.text() == [("answer", "b", False)]


def test_broker_that_knows_nothing_begins_again_with_the_same_attempt():
    bench = streaming()
    for seq in range(3):
        bench.chunk(seq, "old")
    rejoined(bench, "epoch-2")
    bench.chunk(0, "n")
    assert bench.text() == [("answer", "n", True)]
    bench.chunk(1, "ew")
    assert bench.text() == [("answer", "ew", False)]
    assert read(bench, 1) == []
    bench.result(outputs={"answer": "new"}, chunks=2)
    assert bench.text() == []


def test_broker_that_knows_nothing_begins_again_with_a_lower_attempt():
    bench = streaming()
    bench.chunk(0, "old", attempt=3, reset=True)
    rejoined(bench, "epoch-2")
    bench.chunk(0, "new", attempt=1)
    assert bench.text() == [("answer", "new", True)]
    bench.chunk(1, "er", attempt=1)
    assert bench.text() == [("answer", "er", False)]


def test_reset_of_a_run_that_began_again_may_be_shorter_than_what_was_there():
    bench = streaming()
    for seq in range(5):
        bench.chunk(seq, "old")
    rejoined(bench, "epoch-2")
    bench.chunk(1, "new", reset=True)
    assert bench.text() == [("answer", "new", True)]
    bench.chunk(2, "er")
    assert bench.text() == [("answer", "er", False)]


def test_stale_reset_is_dropped():
    bench = streaming()
    bench.chunk(0, "new", attempt=2, reset=True)
    bench.chunk(7, "old", attempt=1, reset=True)
    assert bench.text() == []
    bench.chunk(0, "new", attempt=2, reset=True)
    assert bench.text() == []


def test_gap_is_mended_by_the_result():
    bench = streaming()
    bench.chunk(0, "a")
    bench.chunk(2, "c")
    assert bench.text() == [("answer", "c", False)]
    bench.result(outputs={"answer": "abc", "reasoning": "not streamed"}, chunks=3)
    assert bench.text() == [("answer", "abc", True)]


def test_gap_is_mended_by_a_reset():
    bench = streaming()
    bench.chunk(0, "a")
    bench.chunk(2, "c")
    bench.chunk(3, "abcd", reset=True)
    bench.result(outputs={"answer": "abcd"}, chunks=4)
    assert bench.text() == []


def test_missing_tail_is_mended_by_the_result():
    bench = streaming()
    bench.chunk(0, "a")
    bench.result(outputs={"answer": "abc"}, chunks=3)
    assert bench.text() == [("answer", "abc", True)]


def test_stream_of_which_nothing_came_is_mended_by_the_result():
    bench = streaming()
    bench.result(outputs={"answer": "abc", "score": 3}, chunks=2)
    assert bench.text() == [("answer", "abc", True)]


def test_job_that_wrote_no_text_has_none_to_mend():
    bench = streaming()
    bench.result(outputs={"answer": "cached"}, chunks=0)
    assert bench.text() == []


def test_failed_job_leaves_its_text_as_it_was():
    bench = streaming()
    bench.chunk(0, "a")
    bench.result(code="UNKNOWN", reason="program_error", chunks=9)
    assert bench.text() == []


def read(bench: Bench, seq: int, attempt: int = 1) -> list[cm.Credit]:
    bench.feed(ev.ReadChunk("j1", attempt, seq))
    return bench.sent(cm.Credit)


def test_credit_follows_the_reader_by_half_windows():
    bench = streaming(window=8)
    for seq in range(8):
        bench.chunk(seq, "x")
    assert [read(bench, seq) for seq in range(3)] == [[], [], []]
    assert read(bench, 3) == [cm.Credit(job="j1", attempt=1, upto=12)]
    assert read(bench, 4) == []
    assert read(bench, 7) == [cm.Credit(job="j1", attempt=1, upto=16)]


def test_window_of_one_gives_credit_for_each_chunk():
    bench = streaming(window=1)
    bench.chunk(0, "x")
    assert read(bench, 0) == [cm.Credit(job="j1", attempt=1, upto=2)]
    bench.chunk(1, "x")
    assert read(bench, 1) == [cm.Credit(job="j1", attempt=1, upto=3)]


def test_without_window_there_is_no_credit():
    bench = streaming(window=None)
    bench.chunk(0, "x")
    assert read(bench, 0) == []


def test_reset_without_window_gives_no_credit():
    bench = streaming(window=None)
    bench.chunk(3, "abc", reset=True)
    assert read(bench, 3) == []


def test_credit_of_another_attempt_counts_from_its_start():
    bench = streaming(window=4)
    for seq in range(20):
        bench.chunk(seq, "x")
        read(bench, seq)
    bench.chunk(0, "new", attempt=2, reset=True)
    assert read(bench, 0, attempt=2) == []
    bench.chunk(1, "er", attempt=2)
    assert read(bench, 1, attempt=2) == [cm.Credit(job="j1", attempt=2, upto=6)]


def test_credit_counts_from_where_the_stream_was_joined():
    bench = streaming(window=8)
    bench.chunk(100, "all so far", reset=True)
    assert read(bench, 100) == []
    bench.chunk(101, "x")
    bench.chunk(102, "x")
    bench.chunk(103, "x")
    assert read(bench, 103) == [cm.Credit(job="j1", attempt=1, upto=112)]


def test_reading_an_earlier_attempt_gives_no_credit():
    bench = streaming(window=1)
    bench.chunk(0, "x")
    bench.chunk(0, "y", attempt=2, reset=True)
    assert read(bench, 0, attempt=1) == []
    assert read(bench, 0, attempt=2) == [cm.Credit(job="j1", attempt=2, upto=2)]


def test_no_credit_without_a_session():
    bench = streaming(window=1)
    bench.chunk(0, "x")
    bench.feed(ev.LinkDown())
    assert read(bench, 0) == []


def test_gap_after_a_reconnect_is_taken_once_the_reset_was_there():
    bench = streaming()
    rejoined(bench)
    bench.chunk(2, "abc", reset=True)
    bench.chunk(4, "e")
    assert bench.text() == [("answer", "e", False)]


def test_chunk_of_another_attempt_under_way_at_a_reconnect_is_left_to_its_reset():
    bench = streaming()
    bench.chunk(0, "a")
    rejoined(bench)
    bench.chunk(1, "x", attempt=2)
    assert bench.text() == []
    bench.chunk(2, "xyz", attempt=2, reset=True)
    assert bench.text() == [("answer", "xyz", True)]


def test_reset_forgets_the_fields_that_it_does_not_bring():
    bench = streaming()
    bench.receive(cm.Chunk(job="j1", attempt=1, seq=0), fields={"reasoning": "r"})
    bench.chunk(1, "a", reset=True)
    bench.result(outputs={"reasoning": "r", "answer": "ab"}, chunks=3)
    assert bench.text() == [("answer", "ab", True)]


def test_started_of_the_running_attempt_voids_nothing():
    bench = streaming()
    bench.chunk(0, "a")
    bench.receive(cm.Started(job="j1", attempt=1, revision="r", worker="w"))
    assert bench.text() == []
    bench.chunk(1, "b")
    assert bench.text() == [("answer", "b", False)]


def test_start_of_another_attempt_before_any_text_shows_nothing_and_ends_the_earlier():
    bench = streaming()
    bench.receive(cm.Started(job="j1", attempt=1, revision="r", worker="w"))
    bench.receive(cm.Started(job="j1", attempt=2, revision="r", worker="w"))
    assert bench.text() == []
    bench.chunk(0, "late", attempt=1)
    assert bench.text() == []


def test_result_of_an_attempt_whose_text_never_came_is_mended_and_says_so():
    bench = streaming()
    bench.chunk(0, "a")
    bench.chunk(1, "b")
    bench.result(outputs={"answer": "xy"}, attempt=2, chunks=2)
    (text,) = bench.of(ev.JobText)
    assert text.chunks == [Chunk("answer", "xy", True, 2, 1)]


def test_text_of_an_earlier_attempt_is_replaced_although_the_last_one_streamed_nothing():
    bench = streaming()
    bench.chunk(0, "old")
    bench.result(outputs={"answer": "cached"}, attempt=2, chunks=0)
    assert bench.text() == [("answer", "cached", True)]


def test_gap_of_an_earlier_attempt_does_not_count():
    bench = streaming()
    bench.receive(cm.Chunk(job="j1", attempt=1, seq=0), fields={"reasoning": "r"})
    bench.chunk(2, "a")
    bench.chunk(0, "new", attempt=2)
    bench.chunk(1, "er", attempt=2)
    bench.result(outputs={"reasoning": "r", "answer": "newer"}, attempt=2, chunks=2)
    assert bench.text() == []


def test_fields_of_an_earlier_attempt_do_not_come_back():
    bench = streaming()
    bench.receive(cm.Chunk(job="j1", attempt=1, seq=0), fields={"reasoning": "r"})
    bench.chunk(0, "new", attempt=2)
    bench.result(outputs={"reasoning": "r", "answer": "newer"}, attempt=2, chunks=2)
    assert bench.text() == [("answer", "newer", True)]


def test_smaller_attempt_of_the_same_broker_is_ignored_also_after_a_reconnect():
    bench = streaming()
    bench.chunk(0, "two", attempt=2, reset=True)
    rejoined(bench)
    bench.chunk(0, "one", attempt=1)
    bench.chunk(9, "one", attempt=1, reset=True)
    assert bench.text() == []
    bench.chunk(1, "twotwo", attempt=2, reset=True)
    assert bench.text() == [("answer", "twotwo", True)]
