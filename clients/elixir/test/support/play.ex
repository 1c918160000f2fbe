defmodule Dspymq.Test.Play do
  @moduledoc "Plays a Dspymq.Core as lists of events: every race is played, none is waited for."

  alias Dspymq.Core

  @start -5_000_000

  @welcome %{
    t: :welcome,
    epoch: "e1",
    session: "s1",
    features: ["ack"],
    ping_ms: 1_000,
    dead_ms: 3_000,
    adopt_ms: 0,
    orphan_ms: 0,
    retain_ms: 0,
    limits: %{max_header_bytes: 65_536, max_body_bytes: 1_000}
  }
  @result %{
    t: :result,
    job: "j",
    attempt: 1,
    code: "OK",
    reason: nil,
    message: nil,
    retryable: false,
    retry_after_ms: nil,
    details: nil,
    chunks: 0,
    usage: nil,
    timings: nil,
    revision: "r"
  }
  @error %{
    t: :error,
    code: "INTERNAL",
    reason: "internal",
    message: "",
    retryable: false,
    retry_after_ms: nil,
    rid: nil,
    job: nil,
    lease: nil,
    details: nil
  }

  def new(opts \\ []), do: {Core.new(Keyword.merge([addresses: ["a"]], opts)), @start}

  # Each step is an event, {:after, ms} or {:tick, ms}; gives the instructions of the last one.
  def play({core, now}, steps) do
    {core, now, out} =
      Enum.reduce(List.wrap(steps), {core, now, []}, fn
        {:after, ms}, {core, now, out} ->
          {core, now + ms, out}

        {:tick, ms}, {core, now, _} ->
          {out, core} = Core.handle(core, :tick, now + ms)
          {core, now + ms, out}

        event, {core, now, _} ->
          {out, core} = Core.handle(core, event, now)
          {core, now, out}
      end)

    {{core, now}, out}
  end

  # Ticks whenever one is due, for so long: all that comes of it.
  def pass({core, now}, ms), do: pass(core, now, now + ms, [])

  defp pass(core, now, until, out) do
    case Core.wake_at(core) do
      at when is_integer(at) and at <= until ->
        {more, core} = Core.handle(core, :tick, max(at, now))
        pass(core, max(at, now), until, out ++ more)

      _ ->
        {{core, until}, out}
    end
  end

  def open(job \\ "j", more \\ %{}) do
    fields = Map.merge(%{job: job, program: "qa", timeout_ms: 10_000, want: []}, Map.delete(more, :resume))

    {:open,
     %{
       type: :submit,
       fields: fields,
       body: "body",
       timeout_ms: fields.timeout_ms,
       resume: more[:resume] || false
     }}
  end

  def received(message, body \\ %{}), do: {:received, message, {:ok, body}}
  def welcome(more \\ %{}), do: received(Map.merge(@welcome, Map.new(more)))

  def result(more \\ %{}, outputs \\ %{"answer" => "4"}),
    do: received(Map.merge(@result, Map.new(more)), %{"outputs" => outputs})

  def error(more), do: received(Map.merge(@error, Map.new(more)))
  def pong, do: received(%{t: :pong, n: 0})

  def sent(out), do: for({:send, type, fields, _} <- out, do: {type, fields})
  def ends(out), do: for({:job_ended, job, result} <- out, do: {job, result})
  def live(opts \\ []), do: new(opts) |> play([open("first"), welcome()]) |> elem(0)

  # Time passes with a broker that answers.
  def keep_alive(c, ms) do
    Enum.reduce(1..div(ms, 100), {c, []}, fn _, {c, all} ->
      {c, out} = pass(c, 100)
      {c, more} = play(c, pong())
      {c, all ++ out ++ more}
    end)
  end
end
