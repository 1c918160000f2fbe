# The client as `dspymq conformance client -- COMMAND` tests it (docs/conformance-drivers.md):
#
#     mix compile
#     dspymq conformance client -- elixir -pa _build/dev/lib/dspymq/ebin conformance/driver.exs
#
# Each call has a process of its own, as a caller would have.

unless Code.ensure_loaded?(Dspymq.Test.Json), do: Code.require_file("../test/support/json.ex", __DIR__)

defmodule Driver do
  alias Dspymq.{Chunk, ConnectionError, Error, Job, Tool}
  alias Dspymq.Test.Json

  @supports ~w(call options stream read attach cancel tools ask failover resume close)
  @fields ~w(revision profile lane priority on_disconnect fail_fast redeliver affinity trace)a

  def main do
    {:ok, _} = Application.ensure_all_started(:dspymq)
    Logger.configure(level: :none)
    # Octets in and out, whatever the locale.
    :ok = :io.setopts(:standard_io, encoding: :latin1)
    {:ok, client} = Dspymq.start_link(brokers: System.fetch_env!("DSPYMQ_BROKERS"), client_name: "under-test")
    Process.unlink(client)
    say(%{ready: true, supports: @supports})
    loop(client, :counters.new(1, []), %{})
  end

  defp loop(client, counter, calls) do
    case IO.binread(:stdio, :line) do
      line when is_binary(line) -> loop(client, counter, told(Json.read!(line), client, counter, calls))
      _ -> System.halt(0)
    end
  end

  defp told(%{"tell" => "submit", "call" => call} = step, client, counter, calls) do
    reads = not is_map_key(step, "window")
    submit = fn -> Dspymq.submit(client, step["program"], step["inputs"], options(step, counter)) end
    Map.put(calls, call, spawn_call(call, reads, submit))
  end

  defp told(%{"tell" => "attach", "call" => call} = step, client, _, calls) do
    Map.put(calls, call, spawn_call(call, true, fn -> Dspymq.attach(client, step["job"]) end))
  end

  defp told(%{"tell" => "ask", "call" => call} = step, client, _, calls) do
    spawn(fn ->
      case Dspymq.request(client, step["method"], step["params"] || %{}) do
        {:ok, result} -> say(%{outcome: %{call: call, code: "OK", result: result}})
        {:error, error} -> say(%{outcome: failure(call, error)})
      end
    end)

    calls
  end

  defp told(%{"tell" => "close"}, client, _, calls) do
    spawn(fn -> Dspymq.close(client) end)
    calls
  end

  defp told(%{"tell" => tell, "call" => call}, _, _, calls) when tell in ["cancel", "read"] do
    send(calls[call], String.to_existing_atom(tell))
    calls
  end

  defp told(step, _, _, calls) do
    say(%{problem: "not known: #{inspect(step)}"})
    calls
  end

  defp options(step, counter) do
    chosen = for name <- @fields, value = step["options"][to_string(name)], value != nil, do: {name, value}
    off = for name <- [:fail_fast, :redeliver], step["options"][to_string(name)] == false, do: {name, false}

    chosen ++
      off ++
      for {name, value} when value != nil <- [
            timeout: step["timeout_ms"],
            stream: step["stream"],
            window: step["window"],
            tools: step["tools"] && Enum.map(step["tools"], &tool(&1, counter))
          ],
          do: {name, value}
  end

  defp tool("add", _) do
    Tool.new("add", fn %{"a" => a, "b" => b} when is_integer(a) and is_integer(b) -> a + b end,
      parameters: [a: :integer, b: :integer]
    )
  end

  defp tool("count", counter) do
    Tool.new("count", fn _ ->
      :counters.add(counter, 1, 1)
      :counters.get(counter, 1)
    end)
  end

  defp tool("broken", _), do: Tool.new("broken", fn _ -> raise "broken" end)

  # What is told first is submitted first, each by its own process.
  defp spawn_call(call, reads, submit) do
    driver = self()

    pid =
      spawn(fn ->
        submitted = submit.()
        send(driver, {:submitted, self()})

        case submitted do
          {:ok, job} -> follow(call, job, reads, %{}, [])
          {:error, error} -> say(%{outcome: failure(call, error)})
        end
      end)

    receive(do: ({:submitted, ^pid} -> pid))
  end

  # `unread` are chunks that have come and that the reader was not told to take.
  defp follow(call, %Job{ref: ref} = job, reads, text, unread) do
    receive do
      :cancel ->
        Dspymq.cancel(job)
        follow(call, job, reads, text, unread)

      :read ->
        follow(call, job, reads, take(call, job, unread, text), [])

      {:dspymq, ^ref, {:chunks, chunks}} when reads ->
        follow(call, job, reads, take(call, job, chunks, text), [])

      {:dspymq, ^ref, {:chunks, chunks}} ->
        follow(call, job, reads, text, unread ++ chunks)

      {:dspymq, ^ref, {:news, _}} ->
        follow(call, job, reads, text, unread)

      {:dspymq, ^ref, {:done, {:ok, prediction}}} ->
        outcome = %{call: call, code: "OK", outputs: prediction.outputs, attempt: prediction.attempt}
        say(%{outcome: outcome})

      {:dspymq, ^ref, {:done, {:error, error}}} ->
        say(%{outcome: failure(call, error)})

      {:DOWN, ^ref, _, _, _} ->
        say(%{outcome: failure(call, %ConnectionError{reason: :closed})})
    end
  end

  defp take(_, _, [], text), do: text

  defp take(call, job, chunks, text) do
    text = Enum.reduce(chunks, text, &Chunk.collect/2)
    Dspymq.read(job, List.last(chunks))
    say(%{text: %{call: call, fields: text}})
    text
  end

  defp failure(call, %Error{} = error) do
    %{
      call: call,
      code: Error.wire_code(error.code),
      reason: error.reason,
      message: Exception.message(error),
      attempt: error.attempt
    }
  end

  defp failure(call, %ConnectionError{} = error) do
    %{call: call, code: "UNAVAILABLE", reason: to_string(error.reason), message: Exception.message(error)}
  end

  defp say(line), do: IO.binwrite(:stdio, [Json.write(line), ?\n])
end

Driver.main()
