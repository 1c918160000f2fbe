defmodule Dspymq.Core.JobTest do
  use ExUnit.Case, async: true
  import Dspymq.Test.Play
  alias Dspymq.{ConnectionError, Error, Prediction}

  describe "a job" do
    test "ends with its result, which is acknowledged in a batch" do
      {c, out} = play(live(), result(job: "first"))

      assert [
               {"first",
                {:ok, %Prediction{outputs: %{"answer" => "4"}, job: "first", attempt: 1, revision: "r"}}}
             ] = ends(out)

      assert sent(out) == []
      {c, out} = play(c, result(job: "first"))
      assert ends(out) == []
      {_, out} = pass(c, 20)
      assert sent(out) == [{:ack, %{jobs: ["first", "first"]}}]
    end

    test "acknowledges at once when many have come, at most 1,000 in one message" do
      {c, out} =
        Enum.reduce(1..256, {live(), []}, fn n, {c, all} ->
          {c, out} = play(c, result(job: "nobody's #{n}"))
          {c, all ++ out}
        end)

      assert [{:ack, %{jobs: jobs}}] = sent(out)
      assert length(jobs) == 256
      {_, out} = pass(c, 100)
      assert sent(out) == []
    end

    test "of another epoch: acks that were not sent are dropped, jobs go with the epoch before" do
      {c, _} = play(live(), [open("k"), result(job: "k"), {:link_down, "gone"}])
      {_, out} = play(c, welcome(epoch: "e2", session: "s9"))
      assert [{:submit, %{job: "first", known_epoch: "e1"}}] = sent(out)
    end

    test "known_epoch is the last other than the present one" do
      {c, _} =
        play(live(), [pong(), {:link_down, "gone"}, welcome(epoch: "e2"), pong(), {:link_down, "gone"}])

      # The same broker once more: it may never have got what it was sent.
      {c, out} = play(c, welcome(epoch: "e2", session: "s3"))
      assert [{:submit, %{known_epoch: "e1"}}] = sent(out)
      {c, _} = play(c, [pong(), {:link_down, "gone"}])
      {_, out} = play(c, welcome(epoch: "e3", session: "s4"))
      assert [{:submit, %{known_epoch: "e2"}}] = sent(out)
      {_, out} = play(live(), open("again", %{resume: true}))
      assert [{:submit, %{known_epoch: "unknown"}}] = sent(out)
    end

    test "refused for now is sent again, not before it is asked to; the refusal made nothing" do
      refusal =
        error(
          job: "first",
          code: "RESOURCE_EXHAUSTED",
          reason: "queue_full",
          retryable: true,
          retry_after_ms: 500
        )

      {c, out} = play(live(), refusal)
      assert out == []
      {c, out} = pass(c, 499)
      assert sent(out) == []
      {_, out} = pass(c, 126)
      assert [{:submit, %{job: "first", known_epoch: nil}}] = sent(out)
    end

    test "refused for good, or past its time, fails" do
      {_, out} = play(live(), error(job: "first", code: "ABORTED", reason: "superseded"))
      assert [{"first", {:error, %Error{code: :aborted, reason: "superseded"}}}] = ends(out)

      late =
        error(
          job: "first",
          code: "RESOURCE_EXHAUSTED",
          reason: "queue_full",
          retryable: true,
          retry_after_ms: 60_000
        )

      {_, out} = play(live(), late)
      assert [{"first", {:error, %Error{reason: "queue_full", retryable: true}}}] = ends(out)
      {_, out} = play(live(), error(job: "first", code: "UNAVAILABLE", reason: "no_worker", retryable: true))
      assert [{"first", {:error, %Error{reason: "no_worker"}}}] = ends(out)
    end

    test "waits a little for the broker's own answer after its deadline, then ends here" do
      {c, out} = keep_alive(live(), 10_000)
      assert ends(out) == []
      {_, out} = keep_alive(c, 7_000)

      assert [{"first", {:error, %Error{code: :deadline_exceeded, reason: "deadline", retryable: true}}}] =
               ends(out)

      assert {:cancel, %{job: "first"}} in sent(out)
    end

    test "that no broker ever had ends as unreachable" do
      {c, _} = play(new(), [open(), {:link_down, "connection refused"}])
      {_, out} = pass(c, 11_000)
      assert [{"j", {:error, %ConnectionError{reason: :unreachable} = error}}] = ends(out)
      assert Exception.message(error) == "no broker answered at a (no welcome in time)"
      {c, _} = play(new(connect_timeout_ms: 300), [open(), {:link_down, "connection refused"}])
      {_, out} = pass(c, 300)
      assert [{"j", {:error, %ConnectionError{reason: :unreachable}}}] = ends(out)
    end

    test "is cancelled by its result; before it was sent at once" do
      {c, out} = play(live(), {:cancel, "first"})
      assert sent(out) == [{:cancel, %{job: "first"}}]
      {c, out} = play(c, {:cancel, "first"})
      assert out == []
      {_, out} = play(c, result(job: "first", code: "CANCELLED", reason: "cancelled"))
      assert [{"first", {:error, %Error{code: :cancelled, reason: "cancelled"}}}] = ends(out)
      {_, out} = play(new(), [open(), {:cancel, "j"}])
      assert [{"j", {:error, %Error{code: :cancelled}}}] = ends(out)
    end

    test "cancelled while there is no session is sent, and cancelled, in the next" do
      {c, _} = play(live(), [pong(), {:link_down, "gone"}, {:cancel, "first"}])
      {_, out} = play(c, welcome(session: "s2"))
      assert [{:submit, %{job: "first"}}, {:cancel, %{job: "first"}}] = sent(out)
    end

    test "whose cancel is not answered ends here" do
      {c, _} = play(live(), {:cancel, "first"})
      {_, out} = keep_alive(c, 17_100)
      assert [{"first", {:error, %Error{code: :cancelled, reason: "cancelled"}}}] = ends(out)
    end

    test "released is neither cancelled nor acknowledged" do
      {c, out} = play(live(), {:release, "first"})
      assert out == []
      {c, out} = play(c, result(job: "first"))
      assert out == []
      {_, out} = keep_alive(c, 500)
      refute Enum.any?(sent(out), &match?({:ack, _}, &1))
    end

    test "over the limit of welcome is not sent" do
      opened =
        {:open,
         %{
           type: :submit,
           fields: %{job: "big", want: []},
           body: String.duplicate("x", 1_001),
           timeout_ms: 1_000
         }}

      {_, out} = play(live(), opened)
      assert [{"big", {:error, %Error{code: :resource_exhausted, reason: "body_too_large"}}}] = ends(out)
      assert sent(out) == []
      trace = %{"traceparent" => String.duplicate("x", 70_000)}
      {_, out} = play(live(), open("long", %{trace: trace}))
      assert [{"long", {:error, %Error{code: :resource_exhausted, reason: "header_too_large"}}}] = ends(out)
      assert sent(out) == []
    end

    test "whose result cannot be read fails as internal, and is acknowledged" do
      {:received, message, _} = result(job: "first")
      {c, out} = play(live(), {:received, message, {:error, "not msgpack"}})
      assert [{"first", {:error, %Error{code: :internal, reason: "invalid_body"}}}] = ends(out)
      {_, out} = pass(c, 20)
      assert sent(out) == [{:ack, %{jobs: ["first"]}}]
      {_, out} = play(live(), {:garbled, %{reason: "bad_header", message: "m", job: "first", rid: nil}})
      assert [{"first", {:error, %Error{code: :internal, reason: "bad_header"}}}] = ends(out)
    end

    test "jobs are sent again in the order in which they were opened" do
      opened = for n <- 1..50, do: open("k#{n}")
      {c, _} = play(live(), opened ++ [pong(), {:link_down, "gone"}])
      {_, out} = play(c, welcome(session: "s2"))
      assert for({:submit, %{job: job}} <- sent(out), do: job) == ["first" | for(n <- 1..50, do: "k#{n}")]
    end
  end
end
