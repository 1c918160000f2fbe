defmodule Dspymq.Streams do
  @moduledoc false

  # The lazy faces: the chunks of one job, the results of many, the events of the broker. Who stops early cancels what is
  # open.

  alias Dspymq.{Caller, ConnectionError}

  # Results that wait for a slower one before them: at most so many times the concurrency.
  @ahead 8

  @doc "The chunks of a job that `start` submits, then its result."
  def job(start) do
    Stream.resource(
      fn ->
        case start.() do
          {:ok, job} -> {:open, job, nil}
          {:error, error} -> {:failed, error}
        end
      end,
      &next_chunks/1,
      fn
        {:open, job, _} -> Caller.abandon(job)
        _ -> :ok
      end
    )
  end

  defp next_chunks({:failed, error}), do: {[{:error, error}], :over}
  defp next_chunks(:over), do: {:halt, :over}

  defp next_chunks({:open, job, taken}) do
    # Credit is for what was used: the consumer has come back for more.
    if taken, do: Caller.read(job, taken)

    case Caller.next(job, job.give_up_ms) do
      {:chunks, chunks} -> {Enum.map(chunks, &{:chunk, &1}), {:open, job, List.last(chunks)}}
      {:news, message} -> {[{:news, message}], {:open, job, nil}}
      {:done, result} -> {[result], :over}
      :timeout -> {[{:error, %ConnectionError{reason: :timeout}}], {:open, job, nil} |> abandoned()}
    end
  end

  defp abandoned({:open, job, _}) do
    Caller.abandon(job)
    :over
  end

  @doc "The results of the jobs that `submit` makes of the inputs, in their order, `concurrency` at a time."
  def map(enumerable, concurrency, submit) do
    inputs = Stream.map(enumerable, &{:input, &1})

    inputs
    |> Stream.concat(Stream.repeatedly(fn -> :end end))
    |> Stream.transform(fn -> new_window() end, &map_step(&1, &2, concurrency, submit), fn window ->
      for {_, {:open, job}} <- window.jobs, do: Caller.abandon(job)
    end)
  end

  # Jobs are numbered; `jobs` holds those that were not yet handed on: {:open, job} or {:done, result}.
  defp new_window, do: %{jobs: %{}, refs: %{}, first: 0, next: 0}

  defp map_step(:end, window, _, _) do
    if window.first == window.next do
      {:halt, window}
    else
      window |> wait_for_first() |> take_done([])
    end
  end

  defp map_step({:input, input}, window, concurrency, submit) do
    {window, results} = make_room(window, concurrency, [])

    window =
      case submit.(input) do
        {:ok, job} -> add(window, {:open, job}, %{job.ref => window.next})
        {:error, error} -> add(window, {:done, {:error, error}}, %{})
      end

    {more, window} = window |> poll() |> take_done([])
    {results ++ more, window}
  end

  defp add(window, entry, ref) do
    %{
      window
      | jobs: Map.put(window.jobs, window.next, entry),
        refs: Map.merge(window.refs, ref),
        next: window.next + 1
    }
  end

  defp make_room(window, concurrency, results) do
    if map_size(window.refs) < concurrency and window.next - window.first < concurrency * @ahead do
      {window, results}
    else
      {more, window} = window |> wait() |> take_done([])
      make_room(window, concurrency, results ++ more)
    end
  end

  defp wait_for_first(window) do
    case window.jobs[window.first] do
      {:done, _} -> window
      _ -> window |> wait() |> wait_for_first()
    end
  end

  defp take_done(window, results) do
    case Map.pop(window.jobs, window.first) do
      {{:done, result}, jobs} ->
        take_done(%{window | jobs: jobs, first: window.first + 1}, [result | results])

      _ ->
        {Enum.reverse(results), window}
    end
  end

  # Any of the open jobs may end first.
  defp wait(%{refs: refs} = window, patience \\ :infinity) do
    receive do
      {:dspymq, ref, {:done, result}} when is_map_key(refs, ref) ->
        Caller.forget(ref)
        ended(window, ref, result)

      {:dspymq, ref, _} when is_map_key(refs, ref) ->
        wait(window, patience)

      {:DOWN, ref, :process, _, reason} when is_map_key(refs, ref) ->
        ended(window, ref, {:error, Caller.gone(reason)})
    after
      patience -> window
    end
  end

  defp poll(window) do
    case wait(window, 0) do
      ^window -> window
      window -> poll(window)
    end
  end

  defp ended(window, ref, result) do
    {number, refs} = Map.pop!(window.refs, ref)
    %{window | refs: refs, jobs: Map.put(window.jobs, number, {:done, result})}
  end

  @doc "The events of a subscription that `start` makes; raises its error when it breaks."
  def events(start, stop) do
    Stream.resource(
      fn ->
        case start.() do
          {:ok, subscription} -> subscription
          {:error, error} -> raise error
        end
      end,
      fn %{ref: ref} = subscription ->
        receive do
          {:dspymq, ^ref, {:event, event}} -> {[event], subscription}
          {:dspymq, ^ref, {:done, {:error, error}}} -> raise error
          {:DOWN, ^ref, :process, _, reason} -> raise Caller.gone(reason)
        end
      end,
      stop
    )
  end
end
