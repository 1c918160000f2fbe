defmodule Dspymq.Core.RequestTest do
  use ExUnit.Case, async: true
  import Dspymq.Test.Play
  alias Dspymq.{ConnectionError, Error}

  describe "a request" do
    defp ask(rid, once \\ false),
      do: {:ask, %{rid: rid, method: "m", body: "p", timeout_ms: 2_000, once: once}}

    test "is answered by reply or error, and sent again in a new session" do
      {c, out} = play(live(), ask("r"))
      assert [{:send, :request, %{rid: "r", method: "m"}, "p"}] = out
      {_, out} = play(c, received(%{t: :reply, rid: "r"}, %{"result" => [1]}))
      assert [{:answered, "r", {:ok, [1]}}] = out
      {_, out} = play(c, error(rid: "r", code: "NOT_FOUND", reason: "unknown_job"))
      assert [{:answered, "r", {:error, %Error{code: :not_found}}}] = out
      {c, _} = play(c, [pong(), {:link_down, "gone"}])
      {_, out} = play(c, welcome(session: "s2"))
      assert {:request, %{rid: "r", method: "m"}} in sent(out)
    end

    test "that must not be made twice fails with its session" do
      {_, out} = play(live(), [ask("r", true), pong(), {:link_down, "gone"}])

      assert {:answered, "r", {:error, %ConnectionError{reason: :session_lost}}} =
               List.keyfind(out, :answered, 0)
    end

    test "times out" do
      {_, out} = keep_alive(play(live(), ask("r")) |> elem(0), 2_000)
      assert {:answered, "r", {:error, %ConnectionError{reason: :timeout}}} = List.keyfind(out, :answered, 0)
      {c, _} = play(new(), [{:ping, "p", 300}, {:link_down, "refused"}])
      {_, out} = pass(c, 300)

      assert {:answered, "p", {:error, %ConnectionError{reason: :unreachable}}} =
               List.keyfind(out, :answered, 0)
    end

    test "ping is answered by its own pong" do
      {c, out} = play(live(), {:ping, "p", 300})
      assert sent(out) == [{:ping, %{n: 1}}]
      {_, out} = play(c, received(%{t: :pong, n: 1}))
      assert out == [{:answered, "p", {:ok, nil}}]
    end
  end

  describe "a subscription" do
    test "is made anew in each session, and then says that events may be missing" do
      event = fn seq ->
        received(%{t: :event, sub: "b1", seq: seq, kind: "job.done", at_ms: 1}, %{"event" => %{"job" => "x"}})
      end

      {c, out} = play(live(), {:subscribe, "k", ["job"]})
      assert [{:request, %{rid: "sub-k", method: "events.subscribe"}}] = sent(out)
      taken = received(%{t: :reply, rid: "sub-k"}, %{"result" => %{"sub" => "b1"}})
      {c, out} = play(c, taken)
      assert out == [{:subscribed, "k"}]
      {c, out} = play(c, event.(0))
      assert [{:event, "k", %{kind: "job.done", details: %{"job" => "x"}, gap: false}}] = out
      {c, _} = play(c, {:link_down, "gone"})
      {c, out} = play(c, welcome(session: "s2"))
      assert {:request, %{rid: "sub-k", method: "events.subscribe"}} in sent(out)
      {c, out} = play(c, taken)
      assert out == []
      {c, out} = play(c, event.(0))
      assert [{:event, "k", %{gap: true}}] = out
      {c, out} = play(c, event.(1))
      assert [{:event, "k", %{gap: false}}] = out
      {_, out} = play(c, {:unsubscribe, "k"})
      assert [{:request, %{method: "events.unsubscribe"}}] = sent(out)
    end
  end
end
