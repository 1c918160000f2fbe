defmodule Dspymq.Broker do
  @moduledoc """
  What a broker can be asked: `Dspymq.request/4` under names (SPEC.md, section 10.2).

  Answers are what the broker says, with text as keys. All take `:timeout`, in milliseconds.
  """

  @type client :: Dspymq.client()
  @type answer(value) :: {:ok, value} | {:error, Dspymq.Error.t() | Dspymq.ConnectionError.t()}

  @doc "The programs that were offered to this broker: `[%{\"name\" => \"qa\", \"workers\" => 1, ...}]`."
  @spec programs(client, keyword) :: answer([map])
  def programs(client, opts \\ []), do: part(Dspymq.request(client, "programs.list", %{}, opts), "programs")

  @doc "One program, with the JSON Schemas of its inputs and outputs."
  @spec program(client, String.t(), keyword) :: answer(map)
  def program(client, name, opts \\ []), do: Dspymq.request(client, "programs.get", %{name: name}, opts)

  @doc "The workers: their slots, programs, profiles and processes."
  @spec workers(client, keyword) :: answer([map])
  def workers(client, opts \\ []), do: part(Dspymq.request(client, "workers.list", %{}, opts), "workers")

  @doc "Give this worker no more jobs, and let it give back after `:grace_ms` (30 s) what still runs."
  @spec drain(client, String.t(), keyword) :: answer(map)
  def drain(client, worker, opts \\ []) do
    {params, opts} = Keyword.split(opts, [:grace_ms])
    Dspymq.request(client, "workers.drain", Map.new([{:worker, worker} | params]), opts)
  end

  @doc "Give it jobs again."
  @spec undrain(client, String.t(), keyword) :: answer(map)
  def undrain(client, worker, opts \\ []),
    do: Dspymq.request(client, "workers.undrain", %{worker: worker}, opts)

  @doc "Jobs, oldest first. Filters: `:states`, `:program`, `:limit`."
  @spec jobs(client, keyword) :: answer([map])
  def jobs(client, opts \\ []) do
    {params, opts} = Keyword.split(opts, [:states, :program, :limit])
    part(Dspymq.request(client, "jobs.list", Map.new(params), opts), "jobs")
  end

  @doc "One job, without inputs and outputs."
  @spec job(client, String.t(), keyword) :: answer(map)
  def job(client, id, opts \\ []), do: Dspymq.request(client, "jobs.get", %{job: id}, opts)

  @doc "Cancel a job, whoever waits for it."
  @spec cancel_job(client, String.t(), keyword) :: answer(map)
  def cancel_job(client, id, opts \\ []), do: Dspymq.request(client, "jobs.cancel", %{job: id}, opts)

  @doc "Run a finished job's content again, under `:new_job`; the broker makes an id if there is none."
  @spec retry_job(client, String.t(), keyword) :: answer(map)
  def retry_job(client, id, opts \\ []) do
    {params, opts} = Keyword.split(opts, [:new_job])
    Dspymq.request(client, "jobs.retry", Map.new([{:job, id} | params]), opts)
  end

  @doc "Forget a finished job now."
  @spec drop_job(client, String.t(), keyword) :: answer(map)
  def drop_job(client, id, opts \\ []), do: Dspymq.request(client, "jobs.drop", %{job: id}, opts)

  @doc "Counts and queues."
  @spec stats(client, keyword) :: answer(map)
  def stats(client, opts \\ []), do: Dspymq.request(client, "stats.get", %{}, opts)

  defp part({:ok, %{} = answer}, key), do: {:ok, Map.get(answer, key, [])}
  defp part(other, _), do: other
end
