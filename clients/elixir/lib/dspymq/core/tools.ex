defmodule Dspymq.Core.Tools do
  @moduledoc false

  # Tool calls of the open jobs (SPEC.md, section 9.6).

  import Dspymq.Core.Out
  alias Dspymq.Core.{Jobs, Ledger}
  alias Dspymq.Wire

  @no_tools %{code: "NOT_FOUND", message: "this client offers no tools for this job", body: ""}
  @cancelled %{code: "CANCELLED", message: "the job is being cancelled", body: ""}

  @doc "The program calls a tool: run it once, and answer each time that it comes."
  def called(c, %{job: id} = message, body) do
    case c.jobs do
      %{^id => %{ledger: %{}, cancelling: true}} -> answer(c, message, @cancelled)
      %{^id => %{ledger: %{}} = job} -> run_tool(c, job, message, body)
      _ -> answer(c, message, @no_tools)
    end
  end

  defp run_tool(c, job, message, body) do
    {came, ledger} = Ledger.came(job.ledger, message, {message.name, body})
    c = Jobs.put(c, %{job | ledger: ledger})

    case came do
      {:run, run, voids} ->
        c = if voids, do: emit(c, {:tools_void, job.id}), else: c
        emit(c, {:tool_called, job.id, run, message.name, Wire.part(body, "args"), message.timeout_ms})

      {:answered, known} ->
        answer(c, message, known)

      _ ->
        c
    end
  end

  @doc "A tool was run. Without a session the answer is kept: its call comes again."
  def answered(c, id, run, given) do
    case c.jobs do
      %{^id => %{ledger: %{}} = job} ->
        given = bounded(c, given)
        {call, ledger} = Ledger.answered(job.ledger, run, given)
        c = Jobs.put(c, %{job | ledger: ledger})

        case call do
          {attempt, call} when job.sent -> answer(c, %{job: id, attempt: attempt, call: call}, given)
          _ -> c
        end

      _ ->
        c
    end
  end

  defp bounded(c, %{body: body} = given) do
    case c.session.limits.max_body_bytes do
      limit when byte_size(body) > limit ->
        text = "what the tool returned has #{byte_size(body)} octets, the limit is #{limit}"
        %{code: "RESOURCE_EXHAUSTED", message: text, body: ""}

      _ ->
        given
    end
  end

  defp answer(c, message, given) do
    if live?(c) do
      fields = Map.merge(Map.take(message, [:job, :attempt, :call]), Map.take(given, [:code, :message]))
      send(c, :tool_result, fields, given.body)
    else
      c
    end
  end
end
