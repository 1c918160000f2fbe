defmodule Dspymq.Test.Vectors do
  @moduledoc "The vectors of DJP/1, from protocol/vectors of the repository."

  alias Dspymq.Test.Json

  def read!(name) do
    [__DIR__, "../../../../protocol/vectors", name]
    |> Path.join()
    |> Path.expand()
    |> File.read!()
    |> Json.read!()
  end

  def octets(text) when is_binary(text), do: Base.decode16!(text, case: :lower)
  def octets(pieces) when is_list(pieces), do: Enum.map_join(pieces, &octets/1)
  def octets(%{"octets" => text, "times" => times}), do: String.duplicate(octets(text), times)
end
