defmodule Dspymq.Core.Ledger do
  @moduledoc false

  # The tool calls of one job: each is run once, and answered as often as it comes (R-9.16).
  #
  # A call is known by attempt and number, and by its content: a broker that lost everything runs a job anew from
  # attempt 1, with the same numbers but perhaps other calls. Runs are numbered, so that a function that still works for
  # a call that is void answers nothing.

  # Octets of answers that are kept in case their calls come again; past it the oldest are given up.
  @kept_bytes 32 * 1024 * 1024

  defstruct attempt: 0, anew: false, calls: %{}, runs: %{}, next_run: 0, kept: 0

  @given_up %{code: "DATA_LOSS", message: "the answer of this call is no longer kept", body: ""}

  @doc "The job was sent again; with `anew`, to a broker that may know nothing of it and count from the start."
  def rejoin(ledger, anew), do: %{ledger | anew: ledger.anew or anew}

  @doc """
  A call came: `{{:run, number, voids}, ledger}` if it is to be run, `{{:answered, answer}, ledger}`,
  `{:running, ledger}`, or `{:stale, ledger}` if its attempt is over. With `voids`, all runs before it are void.
  """
  def came(%{attempt: now, anew: false} = ledger, %{attempt: attempt}, _) when attempt < now do
    {:stale, ledger}
  end

  def came(ledger, %{attempt: attempt, call: call}, content) do
    ledger = %{ledger | anew: false}
    known = if attempt == ledger.attempt, do: ledger.calls[call]

    case known do
      %{content: ^content, answer: nil} -> {:running, ledger}
      %{content: ^content, answer: answer} -> {{:answered, answer}, ledger}
      _ -> begin(ledger, attempt, call, content)
    end
  end

  @doc "A run has its answer: `{{attempt, call}, ledger}`, or `{nil, ledger}` if it is void."
  def answered(ledger, run, answer) do
    case Map.pop(ledger.runs, run) do
      {nil, _} ->
        {nil, ledger}

      {call, runs} ->
        entry = %{ledger.calls[call] | answer: answer}
        ledger = %{ledger | runs: runs, calls: Map.put(ledger.calls, call, entry)}
        {{ledger.attempt, call}, give_up(%{ledger | kept: ledger.kept + byte_size(answer.body)}, call)}
    end
  end

  defp begin(ledger, attempt, call, content) do
    voids = ledger.calls != %{} and (attempt != ledger.attempt or is_map_key(ledger.calls, call))
    ledger = if voids, do: %{ledger | calls: %{}, runs: %{}, kept: 0}, else: ledger
    run = ledger.next_run + 1

    ledger = %{
      ledger
      | attempt: attempt,
        next_run: run,
        calls: Map.put(ledger.calls, call, %{content: content, answer: nil}),
        runs: Map.put(ledger.runs, run, call)
    }

    {{:run, run, voids}, ledger}
  end

  defp give_up(%{kept: kept} = ledger, _) when kept <= @kept_bytes, do: ledger

  defp give_up(ledger, newest) do
    answered =
      for {call, %{answer: %{body: body}}} when body != "" and call != newest <- ledger.calls, do: call

    Enum.reduce_while(Enum.sort(answered), ledger, fn
      _, %{kept: kept} = ledger when kept <= @kept_bytes ->
        {:halt, ledger}

      call, ledger ->
        entry = ledger.calls[call]
        calls = Map.put(ledger.calls, call, %{entry | answer: @given_up})
        {:cont, %{ledger | calls: calls, kept: ledger.kept - byte_size(entry.answer.body)}}
    end)
  end
end
