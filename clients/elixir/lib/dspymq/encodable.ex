defprotocol Dspymq.Encodable do
  @moduledoc """
  How a struct is sent.

  Inputs and what tools return may hold `nil`, booleans, numbers, text, atoms (as text), lists, maps and
  `Dspymq.Bin`. A struct is sent as what `to_plain/1` makes of it. `Date`, `Time`, `DateTime` and `NaiveDateTime` become
  ISO 8601 text and a `MapSet` a list. For a struct of your own:

      defimpl Dspymq.Encodable, for: MyApp.Ticket do
        def to_plain(ticket), do: Map.take(ticket, [:subject, :text])
      end
  """
  @fallback_to_any true

  @doc "A term without this struct."
  @spec to_plain(t) :: term
  def to_plain(struct)
end

defimpl Dspymq.Encodable, for: [Date, Time, DateTime, NaiveDateTime] do
  def to_plain(value), do: @for.to_iso8601(value)
end

defimpl Dspymq.Encodable, for: MapSet do
  def to_plain(set), do: MapSet.to_list(set)
end

defimpl Dspymq.Encodable, for: Any do
  def to_plain(%name{}) do
    raise Dspymq.Msgpack.Error,
      message:
        "a struct #{inspect(name)} has no form on the wire; send a map (Map.from_struct/1), " <>
          "or implement Dspymq.Encodable for it"
  end

  def to_plain(other) do
    raise Dspymq.Msgpack.Error, message: "#{inspect(other, limit: 5)} has no form on the wire"
  end
end
