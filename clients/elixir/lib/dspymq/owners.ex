defmodule Dspymq.Owners do
  @moduledoc false

  # Which processes have what open: one monitor for each, however much it is. Data of the connection process, to which
  # the `:DOWN` of an owner comes.

  @type t :: %{optional(pid) => {reference, MapSet.t()}}

  @doc "This process has this, too."
  def add(owners, pid, what) do
    case owners do
      %{^pid => {monitor, owned}} -> %{owners | pid => {monitor, MapSet.put(owned, what)}}
      _ -> Map.put(owners, pid, {Process.monitor(pid), MapSet.new([what])})
    end
  end

  @doc "It has it no more; one that has nothing is no longer watched."
  def remove(owners, pid, what) do
    with %{^pid => {monitor, owned}} <- owners do
      owned = MapSet.delete(owned, what)

      if MapSet.size(owned) == 0 do
        Process.demonitor(monitor, [:flush])
        Map.delete(owners, pid)
      else
        %{owners | pid => {monitor, owned}}
      end
    end
  end

  @doc "A monitor has fired: what its process had, or `:other`."
  def down(owners, pid, monitor) do
    case owners do
      %{^pid => {^monitor, owned}} -> {owned, Map.delete(owners, pid)}
      _ -> :other
    end
  end
end
