defmodule Dspymq.ToolRunner do
  @moduledoc false

  # Runs the tools of the open jobs of one connection, each call in a process of its own, beside each other within a
  # bound for each job, until the job ends. Data of the connection process: what it returns as `answers` goes into the
  # core as `{:tool_answered, job, run, answer}`.

  alias Dspymq.Tool

  # Further calls wait, and their time runs.
  @at_once 8

  defstruct calls: %{}, waiting: %{}, monitors: %{}

  @doc "A program calls a tool. `job` is the connection's entry of the job."
  def call(runner, id, run, name, args, timeout_ms, job) do
    case {job.tools, args} do
      {%{^name => tool}, {:ok, args}} ->
        timer = Process.send_after(self(), {:dspymq_tool_late, id, run}, timeout_ms)
        call = %{tool: tool, args: args, timer: timer, timeout_ms: timeout_ms, owner: job.owner, pid: nil}
        calls = Map.update(runner.calls, id, %{run => call}, &Map.put(&1, run, call))
        runner = %{runner | calls: calls, waiting: Map.update(runner.waiting, id, [run], &(&1 ++ [run]))}
        {[], start(runner, id)}

      {_, {:error, problem}} ->
        {[{:tool_answered, id, run, Tool.refusal("INVALID_ARGUMENT", problem)}], runner}

      {tools, _} ->
        known = Enum.join(Map.keys(tools), ", ")
        text = "there is no tool #{inspect(name)}; there are #{known}"
        {[{:tool_answered, id, run, Tool.refusal("NOT_FOUND", text)}], runner}
    end
  end

  @doc "A message of the connection process: `{answers, runner}`, or `:other` if it is none of these."
  def message(runner, {:dspymq_tool, id, run, answer}), do: done(runner, id, run, answer)

  def message(runner, {:dspymq_tool_late, id, run}) do
    case runner.calls do
      %{^id => %{^run => call}} ->
        done(runner, id, run, Tool.refusal("DEADLINE_EXCEEDED", "no answer within #{call.timeout_ms} ms"))

      _ ->
        {[], runner}
    end
  end

  def message(runner, {:DOWN, monitor, :process, _, reason}) when is_map_key(runner.monitors, monitor) do
    {id, run} = runner.monitors[monitor]
    runner = %{runner | monitors: Map.delete(runner.monitors, monitor)}
    done(runner, id, run, Tool.refusal("UNKNOWN", "exit: #{inspect(reason, limit: 10)}"))
  end

  def message(_, _), do: :other

  @doc "Stop what runs for a job; nothing of it is answered."
  def stop(runner, id) do
    {calls, all} = Map.pop(runner.calls, id, %{})
    Enum.each(calls, fn {_, call} -> stop_call(call) end)

    monitors =
      for {monitor, {job, _}} = entry <- runner.monitors, keep?(job, id, monitor), into: %{}, do: entry

    %{runner | calls: all, waiting: Map.delete(runner.waiting, id), monitors: monitors}
  end

  defp keep?(id, id, monitor) do
    Process.demonitor(monitor, [:flush])
    false
  end

  defp keep?(_, _, _), do: true

  defp done(runner, id, run, answer) do
    case runner.calls do
      %{^id => %{^run => call} = calls} ->
        stop_call(call)
        waiting = Map.update(runner.waiting, id, [], &List.delete(&1, run))
        runner = %{runner | calls: Map.put(runner.calls, id, Map.delete(calls, run)), waiting: waiting}
        {[{:tool_answered, id, run, answer}], start(runner, id)}

      _ ->
        {[], runner}
    end
  end

  defp stop_call(call) do
    Process.cancel_timer(call.timer)
    if call.pid, do: Process.exit(call.pid, :kill)
  end

  defp start(runner, id) do
    calls = runner.calls[id]
    running = Enum.count(calls, fn {_, call} -> call.pid end)

    case runner.waiting[id] do
      [run | rest] when running < @at_once ->
        {pid, monitor} = spawn_tool(id, run, calls[run])
        calls = Map.put(calls, run, %{calls[run] | pid: pid})

        start(
          %{
            runner
            | calls: Map.put(runner.calls, id, calls),
              waiting: Map.put(runner.waiting, id, rest),
              monitors: Map.put(runner.monitors, monitor, {id, run})
          },
          id
        )

      _ ->
        runner
    end
  end

  defp spawn_tool(id, run, call) do
    connection = self()

    :erlang.spawn_opt(
      fn ->
        Process.put(:"$callers", [call.owner])
        Process.put(:"$ancestors", [connection])
        send(connection, {:dspymq_tool, id, run, Tool.answer(call.tool, call.args)})
      end,
      [:link, :monitor]
    )
  end
end
