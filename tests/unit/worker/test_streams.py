"""StreamBuffer: numbering, credit, coalescing, resets, and that no text is ever lost."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dspymq.worker.executor.streams import ChunkText, StreamBuffer


def drain(buffer: StreamBuffer, *, last: bool = False) -> list[ChunkText]:
    found = []
    while (chunk := buffer.take(last=last)) is not None:
        found.append(chunk)
    return found


def test_unlimited_by_default_and_numbered_from_0() -> None:
    buffer = StreamBuffer()
    buffer.write(1, "a", "x")
    assert drain(buffer) == [(0, False, {"a": "x"})]
    buffer.write(1, "a", "y")
    buffer.write(1, "b", "z")
    assert drain(buffer) == [(1, False, {"a": "y", "b": "z"})]
    assert buffer.next_seq == 2
    assert drain(buffer, last=True) == []


def test_without_credit_it_coalesces_and_the_last_chunk_needs_none() -> None:
    buffer = StreamBuffer(window=1)
    for text in "abcd":
        buffer.write(1, "f", text)
        first = buffer.take()
        assert (first is not None) == (text == "a")
    buffer.credit(2)
    assert drain(buffer) == [(1, False, {"f": "bcd"})]
    buffer.credit(1)  # less than before: ignored
    buffer.write(1, "f", "e")
    assert drain(buffer) == []
    assert drain(buffer, last=True) == [(2, False, {"f": "e"})]


def test_a_later_attempt_begins_with_a_reset() -> None:
    buffer = StreamBuffer(begin_with_reset=True)
    assert drain(buffer) == []
    buffer.write(1, "f", "a")
    buffer.write(1, "f", "b")
    assert drain(buffer) == [(0, True, {"f": "ab"})]
    buffer.write(1, "f", "c")
    assert drain(buffer) == [(1, False, {"f": "c"})]


def test_attach_gives_one_snapshot_and_goes_on() -> None:
    buffer = StreamBuffer(window=1)
    buffer.write(1, "f", "a")
    drain(buffer)
    buffer.write(1, "f", "b")
    buffer.attach(wanted=True, window=2)
    assert drain(buffer) == [(1, True, {"f": "ab"})]
    buffer.write(1, "f", "c")
    assert drain(buffer) == [(2, False, {"f": "c"})]
    buffer.write(1, "f", "d")
    assert drain(buffer) == []
    buffer.attach(wanted=True, window=None)
    assert drain(buffer) == [(3, True, {"f": "abcd"})]


def test_attach_without_chunks_silences_it() -> None:
    buffer = StreamBuffer()
    buffer.attach(wanted=False, window=None)
    buffer.write(1, "f", "a")
    assert drain(buffer, last=True) == []


def test_attach_before_any_text_still_gets_its_reset() -> None:
    buffer = StreamBuffer()
    buffer.attach(wanted=True, window=None)
    assert drain(buffer) == [(0, True, {})]


def test_a_later_call_replaces_the_field_and_the_earlier_is_ignored() -> None:
    buffer = StreamBuffer()
    buffer.write(1, "f", "draft")
    buffer.write(1, "g", "kept")
    drain(buffer)
    buffer.write(2, "f", "fin")
    buffer.write(1, "f", " late")
    assert drain(buffer) == [(1, True, {"g": "kept", "f": "fin"})]


def test_what_was_replaced_unsent_needs_no_reset() -> None:
    buffer = StreamBuffer()
    buffer.write(1, "f", "draft")
    buffer.write(2, "f", "final")
    assert drain(buffer) == [(0, False, {"f": "final"})]


def test_settle_makes_the_text_what_the_result_says() -> None:
    buffer = StreamBuffer()
    buffer.write(1, "f", "abc")
    buffer.write(1, "gone", "x")
    drain(buffer)
    buffer.settle({"f": "abcdef", "new": "n"})
    assert drain(buffer, last=True) == [(1, True, {"f": "abcdef", "new": "n"})]
    buffer.settle({"f": "other", "new": "n"})
    assert drain(buffer, last=True) == [(2, True, {"new": "n", "f": "other"})]
    buffer.settle({"f": "other", "new": "n"})
    assert drain(buffer, last=True) == []


def test_only_the_given_fields() -> None:
    buffer = StreamBuffer(fields={"a"})
    buffer.write(1, "b", "x")
    buffer.settle({"b": "x"})
    assert drain(buffer, last=True) == []


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from("fg"), st.text(min_size=1, max_size=3), st.integers(1, 3)),
        st.tuples(st.just("credit"), st.integers(0, 12)),
        st.tuples(st.just("attach"), st.none() | st.integers(1, 3)),
        st.tuples(st.just("take")),
    ),
    max_size=40,
)


@given(st.none() | st.integers(1, 3), st.booleans(), steps)
def test_a_client_always_ends_with_the_whole_text(window: int | None, begin: bool, script: list[Any]) -> None:
    buffer = StreamBuffer(window=window, begin_with_reset=begin)
    chunks: list[ChunkText] = []
    upto = window
    for step in script:
        if step[0] == "write":
            buffer.write(step[3], step[1], step[2])
        elif step[0] == "credit":
            upto = None if upto is None else max(upto, step[1])
            buffer.credit(step[1])
        elif step[0] == "attach":
            upto = None if step[1] is None else buffer.next_seq + step[1]
            buffer.attach(wanted=True, window=step[1])
        else:
            taken = drain(buffer)
            assert upto is None or all(chunk.seq < upto for chunk in taken)
            chunks += taken
    expected = {name: buffer.text(name) for name in "fg"}
    chunks += drain(buffer, last=True)
    seen: dict[str, str] = {"f": "", "g": ""}
    for number, chunk in enumerate(chunks):
        assert chunk.seq == number
        if chunk.reset:
            seen = {"f": "", "g": ""}
        for name, text in chunk.fields.items():
            seen[name] += text
    assert seen == expected
    assert buffer.next_seq == len(chunks)
