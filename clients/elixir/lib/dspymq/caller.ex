defmodule Dspymq.Caller do
  @moduledoc false

  # The caller's side of the connection process. Each call has a monitor of it that is an alias as well: an answer that
  # comes when the caller has given up, and demonitored, is dropped by the VM instead of staying in the mailbox.

  alias Dspymq.{ConnectionError, Job}

  # The connection ends every job and request in time by itself. A caller waits so much longer before it takes the
  # process itself for stuck.
  @margin_ms 30_000

  @doc "Cast what `make` gives for a fresh ref: `{:ok, ref, pid}`, or an error if there is no client."
  def cast(client, make) do
    case GenServer.whereis(client) do
      nil ->
        {:error, %ConnectionError{reason: :noproc, message: "there is no client #{inspect(client)}"}}

      server ->
        ref = :erlang.monitor(:process, server, alias: :demonitor)
        GenServer.cast(server, make.(ref))
        {:ok, ref, server}
    end
  end

  @doc "Send a job to the client. `give_up_ms` is when its caller no longer believes in the client."
  def open(client, {opened, meta}) do
    with {:ok, ref, pid} <- cast(client, &{:open, &1, opened, meta}) do
      {:ok,
       %Job{
         id: opened.fields.job,
         ref: ref,
         client: pid,
         owner: meta.owner,
         program: meta.program,
         give_up_ms: now() + opened.timeout_ms + @margin_ms
       }}
    end
  end

  @doc "The end of a job, whatever comes before it: its result, or `:timeout`."
  def await(%Job{} = job, timeout) do
    deadline = if timeout == :infinity, do: job.give_up_ms, else: min(job.give_up_ms, now() + timeout)
    await_until(job, deadline)
  end

  defp await_until(job, deadline) do
    case next(job, deadline) do
      {:chunks, chunks} ->
        read(job, List.last(chunks))
        await_until(job, deadline)

      {:news, _} ->
        await_until(job, deadline)

      {:done, result} ->
        result

      :timeout ->
        :timeout
    end
  end

  @doc "The next event of a job, or `:timeout`. Once it is done, its ref is void."
  def next(%Job{ref: ref} = job, deadline) do
    owner!(job)

    receive do
      {:dspymq, ^ref, {:done, _} = done} ->
        forget(ref)
        done

      {:dspymq, ^ref, event} ->
        event

      {:DOWN, ^ref, :process, _, reason} ->
        {:done, {:error, gone(reason)}}
    after
      max(0, deadline - now()) -> :timeout
    end
  end

  @doc "Wait for the one answer to a request."
  def answer(ref, timeout) do
    receive do
      {:dspymq, ^ref, {:done, result}} ->
        forget(ref)
        result

      {:DOWN, ^ref, :process, _, reason} ->
        {:error, gone(reason)}
    after
      timeout + @margin_ms ->
        forget(ref)
        {:error, %ConnectionError{reason: :timeout}}
    end
  end

  @doc "The chunk was used: room for another."
  def read(job, chunk), do: GenServer.cast(job.client, {:read, job.id, chunk.attempt, chunk.seq})

  @doc "Cancel a job, and hear no more of it."
  def abandon(%Job{} = job) do
    GenServer.cast(job.client, {:abandon, job.id, job.ref})
    forget(job.ref)
    flush(job.ref)
  end

  @doc "From now on what comes for this ref is dropped."
  def forget(ref), do: Process.demonitor(ref, [:flush])

  @doc "Take what has come for this ref out of the mailbox."
  def flush(ref) do
    receive do
      {:dspymq, ^ref, _} -> flush(ref)
    after
      0 -> :ok
    end
  end

  def gone(:noproc), do: %ConnectionError{reason: :noproc}
  def gone(reason), do: %ConnectionError{reason: :closed, message: "the client ended: #{inspect(reason)}"}

  def now, do: System.monotonic_time(:millisecond)

  defp owner!(%Job{owner: owner}) when owner == self(), do: :ok

  defp owner!(job) do
    raise ArgumentError,
          "job #{job.id} belongs to #{inspect(job.owner)}, and only that process hears of it; this is #{inspect(self())}"
  end
end
