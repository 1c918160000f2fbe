"""The open calls of an attempt: numbers, what is sent again, what is ignored."""

from dspymq.worker.executor.tool_calls import OpenCalls


def test_numbers_count_from_0_and_are_never_used_twice() -> None:
    calls = OpenCalls()
    assert [calls.open("t", b"", 0, 10).number for _ in range(3)] == [0, 1, 2]
    assert calls.close(2)
    assert calls.open("t", b"", 0, 10).number == 3


def test_a_second_answer_and_one_to_nothing_are_not_taken() -> None:
    calls = OpenCalls()
    calls.open("t", b"", 0, 10)
    assert calls.close(0)
    assert not calls.close(0)
    assert not calls.close(7)


def test_what_is_open_is_sent_again_in_order_with_the_time_that_is_left() -> None:
    calls = OpenCalls()
    for name in ("a", "b", "c"):
        calls.open(name, name.encode(), 1_000, 500)
    calls.close(1)
    assert [(call.number, call.name, call.body, left) for call, left in calls.again(1_200)] == [
        (0, "a", b"a", 300),
        (2, "c", b"c", 300),
    ]
    assert len(calls) == 2


def test_a_call_that_is_about_to_time_out_has_a_moment_left() -> None:
    calls = OpenCalls()
    calls.open("t", b"", 0, 10)
    assert [left for _, left in calls.again(50)] == [1]
