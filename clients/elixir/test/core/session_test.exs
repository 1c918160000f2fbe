defmodule Dspymq.Core.SessionTest do
  use ExUnit.Case, async: true
  import Dspymq.Test.Play
  alias Dspymq.{ConnectionError, Core, Error}

  describe "a session" do
    test "says hello first, and nothing else before welcome" do
      {c, out} = play(new(), open())
      assert [{:connect, "a"}, {:send, :hello, %{features: ["ack"], lang: "elixir"}, ""}] = out
      {_, out} = play(c, welcome())
      assert [{:session_up, "a", _, false}, {:send, :submit, %{job: "j", known_epoch: nil}, "body"}] = out
    end

    test "is only looked for when there is something to do, unless it is eager" do
      {c, _} = play(new(), [open(), welcome(), result()])
      {_, out} = play(c, {:link_down, "gone"})
      assert [{:session_down, "a", "gone"}, {:disconnect, 0}] = out
      {c, out} = play(new(eager: true), :want)
      assert [{:connect, "a"}, {:send, :hello, _, _}] = out
      {_, out} = play(c, [welcome(), pong(), {:link_down, "gone"}])
      assert {:connect, "a"} in out
    end

    test "tries its addresses in their order, each for a bounded time, then waits with jitter" do
      {c, out} = play(new(addresses: ["a", "b"]), open())
      assert {:connect, "a"} in out
      {c, out} = pass(c, 1_000)

      assert [{:failed, "a", "no welcome in time"}, {:disconnect, 0}, {:connect, "b"}, {:send, :hello, _, _}] =
               out

      {c, out} = play(c, {:link_down, "refused"})
      assert [{:failed, "b", "refused"}, {:disconnect, 0}] = out
      {_, out} = pass(c, 50)
      assert {:connect, "a"} in out
    end

    test "pauses at most a second while something is open, longer while nothing is" do
      attempts = fn c ->
        {_, out} =
          Enum.reduce(1..400, {c, []}, fn _, {c, all} ->
            {c, out} = pass(c, 250)
            {c, more} = if {:connect, "a"} in out, do: play(c, {:link_down, "refused"}), else: {c, []}
            {c, all ++ out ++ more}
          end)

        Enum.count(out, &(&1 == {:connect, "a"}))
      end

      {busy, _} = play(new(), [open("j", %{timeout_ms: 1_000_000}), {:link_down, "refused"}])
      assert attempts.(busy) in 90..220
      {idle, _} = play(new(eager: true), [:want, {:link_down, "refused"}])
      assert attempts.(idle) in 8..25
    end

    test "comes soon for a job that is opened in a long pause" do
      {c, _} = play(new(eager: true), [:want, {:link_down, "refused"}])

      {c, _} =
        Enum.reduce(1..14, {c, []}, fn _, {c, _} ->
          {c, out} = pass(c, 30_000)
          if {:connect, "a"} in out, do: play(c, {:link_down, "refused"}), else: {c, out}
        end)

      {c, _} = play(c, open())
      {_, out} = pass(c, 60)
      assert {:connect, "a"} in out
    end

    test "pings when it has sent nothing, also while it is being sent to" do
      {c, _} = pass(live(), 500)
      {c, _} = play(c, received(%{t: :chunk, job: "x", attempt: 1, seq: 0, reset: false}))
      {_, out} = pass(c, 500)
      assert sent(out) == [{:ping, %{}}]
    end

    test "ends after the silence of dead_ms; open jobs are sent again" do
      {c, out} = pass(live(), 2_999)
      refute Enum.any?(out, &match?({:session_down, _, _}, &1))
      {c, out} = pass(c, 1)
      assert [{:session_down, "a", "silent for 3000 ms"}, {:disconnect, 0}] = Enum.take(out, 2)
      {c, _} = pass(c, 50)
      {_, out} = play(c, welcome(session: "s2"))
      assert [{:submit, %{job: "first", known_epoch: "e1", timeout_ms: left}}] = sent(out)
      assert left in 6_900..7_000
    end

    test "a VM that stood still reads before it judges" do
      {c, _} = play(live(), {:tick, 60_000})
      assert {:live, "a"} = Core.status(elem(c, 0))
      {c, _} = play(c, pong())
      {c, _} = pass(c, 1_500)
      assert {:live, "a"} = Core.status(elem(c, 0))
      # Nothing was read: then it is dead after all.
      {d, _} = play(live(), {:tick, 60_000})
      {_, out} = pass(d, 1_000)
      assert Enum.any?(out, &match?({:session_down, _, _}, &1))
    end

    test "however many no_session there are, one hello" do
      {c, out} =
        play(live(), [pong(), error(reason: "no_session", code: "FAILED_PRECONDITION", retryable: true)])

      assert [{:send, :hello, _, _}] = for({:send, :hello, _, _} = one <- out, do: one)
      {c, out} = play(c, error(reason: "no_session", code: "FAILED_PRECONDITION", retryable: true))
      assert out == []
      {_, out} = play(c, welcome(session: "s2"))
      assert [{:submit, %{job: "first", known_epoch: "e1"}}] = sent(out)
    end

    test "fails its jobs when every broker refuses it for good" do
      {c, _} = play(new(addresses: ["a", "b"]), [open(), error(code: "UNAUTHENTICATED", reason: "who")])
      {_, out} = play(c, error(code: "UNAUTHENTICATED", reason: "who"))
      assert [{"j", {:error, %Error{code: :unauthenticated, reason: "who", job: "j"}}}] = ends(out)
    end

    test "says bye at its end, and takes nothing more" do
      {c, out} = play(live(), :close)
      assert [{:bye, %{reason: _}}] = sent(out)
      assert [{"first", {:error, %ConnectionError{reason: :closed}}}] = ends(out)
      {_, out} = play(c, open("late"))
      assert [{"late", {:error, %ConnectionError{reason: :closed}}}] = ends(out)
    end
  end
end
