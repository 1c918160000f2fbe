defmodule Dspymq.Bin do
  @moduledoc """
  Raw bytes.

  Elixir has one type for text and bytes, the wire has two. A plain binary is text, and must be valid UTF-8; bytes are
  wrapped: `%Dspymq.Bin{data: File.read!("photo.png")}`. Bytes in outputs come back so, too.
  """

  @enforce_keys [:data]
  defstruct [:data]

  @type t :: %__MODULE__{data: binary}

  defimpl Inspect do
    def inspect(%{data: data}, _opts) when is_binary(data), do: "#Dspymq.Bin<#{byte_size(data)} bytes>"
    def inspect(_, _opts), do: "#Dspymq.Bin<?>"
  end
end
