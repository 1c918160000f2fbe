defmodule Dspymq.Core.Timers do
  @moduledoc false

  # Named points in time: each key stands at most once; setting it again moves it.

  defstruct at: %{}, set: :gb_sets.new()

  @type t :: %__MODULE__{at: map, set: term}

  def put(%{at: at, set: set} = timers, key, at_ms) do
    set = if old = at[key], do: :gb_sets.del_element({old, key}, set), else: set
    %{timers | at: Map.put(at, key, at_ms), set: :gb_sets.add_element({at_ms, key}, set)}
  end

  def cancel(%{at: at, set: set} = timers, key) do
    case at do
      %{^key => old} -> %{timers | at: Map.delete(at, key), set: :gb_sets.del_element({old, key}, set)}
      _ -> timers
    end
  end

  @doc "When this key is due, or nil."
  def at(%{at: at}, key), do: at[key]

  @doc "When the next key is due, or nil."
  def next(%{set: set}) do
    if :gb_sets.is_empty(set), do: nil, else: set |> :gb_sets.smallest() |> elem(0)
  end

  @doc "Takes the next key that is due: {key, timers}, or nil."
  def pop(%{at: at, set: set} = timers, now_ms) do
    with false <- :gb_sets.is_empty(set),
         {{at_ms, key}, set} when at_ms <= now_ms <- :gb_sets.take_smallest(set) do
      {key, %{timers | at: Map.delete(at, key), set: set}}
    else
      _ -> nil
    end
  end
end
