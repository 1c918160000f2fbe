defmodule Dspymq.Core.StreamTest do
  use ExUnit.Case, async: true
  import Dspymq.Test.Play
  alias Dspymq.Chunk

  describe "a stream" do
    defp streaming(window \\ 4), do: play(live(), open("j", %{want: ["chunks"], window: window})) |> elem(0)

    defp chunk(seq, text, more \\ %{}) do
      received(Map.merge(%{t: :chunk, job: "j", attempt: 1, seq: seq, reset: false}, Map.new(more)), %{
        "fields" => %{"answer" => text}
      })
    end

    defp text(steps, c \\ streaming()) do
      {_, text} =
        Enum.reduce(steps, {c, %{}}, fn step, {c, text} ->
          {c, out} = play(c, step)

          {c,
           for(
             {:job_chunks, "j", chunks} <- out,
             chunk <- chunks,
             reduce: text,
             do: (text -> Chunk.collect(chunk, text))
           )}
        end)

      text["answer"]
    end

    test "is put together; resets and greater attempts void it, smaller ones are ignored" do
      assert text([chunk(0, "Fo"), chunk(1, "rty")]) == "Forty"
      assert text([chunk(0, "Fo"), chunk(1, "4", reset: true), chunk(2, "2")]) == "42"
      assert text([chunk(0, "one"), chunk(0, "two", attempt: 2), chunk(1, "late")]) == "two"
      assert text([chunk(0, "one"), chunk(0, "one"), chunk(1, "!")]) == "one!"
    end

    test "a gap is mended by the result" do
      assert text([chunk(0, "Fo"), chunk(2, "y"), result(%{chunks: 3})]) == "4"
      assert text([chunk(0, "x"), result(%{attempt: 2, chunks: 0})]) == "4"
      assert text([chunk(0, "4"), result(%{chunks: 1})]) == "4"
    end

    test "after a new session what was under way is ignored until the reset" do
      again = [pong(), {:link_down, "gone"}, welcome(session: "s2")]

      assert text([chunk(0, "a"), chunk(1, "b")] ++ again ++ [chunk(5, "late"), chunk(6, "abc", reset: true)]) ==
               "abc"

      assert text([chunk(0, "a"), chunk(1, "b")] ++ again ++ [chunk(5, "late")]) == "ab"
      assert text([chunk(0, "a")] ++ again ++ [chunk(1, "b"), chunk(2, "c")]) == "abc"
      anew = [pong(), {:link_down, "gone"}, welcome(session: "s2", epoch: "e2")]
      assert text([chunk(0, "a", attempt: 2)] ++ anew ++ [chunk(0, "n"), chunk(1, "ew")]) == "new"
    end

    test "gives credit when half of the window was read" do
      {c, _} = play(streaming(4), [chunk(0, "a"), chunk(1, "b"), chunk(2, "c")])
      {c, out} = play(c, {:read, "j", 1, 0})
      assert out == []
      {c, out} = play(c, {:read, "j", 1, 1})
      assert sent(out) == [{:credit, %{job: "j", attempt: 1, upto: 6}}]
      {c, out} = play(c, {:read, "j", 2, 9})
      assert out == []
      {_, out} = play(c, {:read, "j", 1, 3})
      assert sent(out) == [{:credit, %{job: "j", attempt: 1, upto: 8}}]
    end
  end
end
