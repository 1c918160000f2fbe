defmodule Dspymq.Msgpack.Error do
  @moduledoc "A term that cannot be written as msgpack, or octets that are none."

  defexception [:message, path: []]

  @type t :: %__MODULE__{message: String.t(), path: [String.t()]}

  @impl true
  def message(%{message: message, path: []}), do: message
  def message(%{message: message, path: path}), do: Enum.join(path, ".") <> ": " <> message
end
