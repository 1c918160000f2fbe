defmodule Dspymq.Core.Acks do
  @moduledoc false

  # Results are acknowledged together (R-5.19): at the latest so long after the first, or so many at once.

  import Dspymq.Core.Out

  @batch 256
  @delay_ms 20

  @doc "A result was handed over."
  def note(c, id) do
    c = %{c | acks: [id | c.acks], ack_count: c.ack_count + 1}

    cond do
      c.ack_count >= @batch -> flush(c)
      c.ack_count == 1 -> set_timer(c, :acks, c.now + @delay_ms)
      true -> c
    end
  end

  @doc "Its result is wanted once more."
  def withdraw(c, id) do
    acks = List.delete(c.acks, id)
    %{c | acks: acks, ack_count: length(acks)}
  end

  @doc "Send those that are due; without a session they wait for the next."
  def flush(%{acks: []} = c), do: c

  def flush(c) do
    if live?(c) do
      # A message takes 1,000 at most; more have come together only while there was no session.
      c.acks
      |> Enum.reverse()
      |> Enum.chunk_every(1_000)
      |> Enum.reduce(forget(c), fn jobs, c -> send(c, :ack, %{jobs: jobs}) end)
    else
      c
    end
  end

  @doc "Another broker: what was not yet acknowledged is gone with the old one (R-8.2)."
  def forget(c), do: cancel_timer(%{c | acks: [], ack_count: 0}, :acks)
end
