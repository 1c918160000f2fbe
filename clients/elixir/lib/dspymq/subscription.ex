defmodule Dspymq.Subscription do
  @moduledoc "A subscription to the broker's events: see `Dspymq.subscribe/3`."

  @enforce_keys [:ref, :key, :client]
  defstruct [:ref, :key, :client]

  @type t :: %__MODULE__{ref: reference, key: String.t(), client: pid | {atom, node}}
end
