defmodule Dspymq.Chunk do
  @moduledoc """
  A piece of the text of one output field, as a language model writes it.

  With `reset`, everything before it, of *every* field, is void: discard it, then take this text. That happens when the
  job is run again, when the client had to attach to it again, and when a piece was lost on the way. A reset that brings
  no text has an empty `field`.
  """

  defstruct field: "", text: "", reset: false, attempt: 1, seq: 0

  @type t :: %__MODULE__{
          field: String.t(),
          text: String.t(),
          reset: boolean,
          attempt: non_neg_integer,
          seq: non_neg_integer
        }

  @doc """
  The text so far, by field, with one more chunk.

      iex> chunks = [
      ...>   %Dspymq.Chunk{field: "answer", text: "Fo"},
      ...>   %Dspymq.Chunk{field: "answer", text: "rty"},
      ...>   %Dspymq.Chunk{field: "answer", text: "Twelve", reset: true}
      ...> ]
      iex> chunks |> Enum.take(2) |> Enum.reduce(%{}, &Dspymq.Chunk.collect/2)
      %{"answer" => "Forty"}
      iex> Enum.reduce(chunks, %{}, &Dspymq.Chunk.collect/2)
      %{"answer" => "Twelve"}
  """
  @spec collect(t, %{optional(String.t()) => String.t()}) :: %{optional(String.t()) => String.t()}
  def collect(%__MODULE__{reset: true} = chunk, _), do: collect(%{chunk | reset: false}, %{})
  def collect(%__MODULE__{field: ""}, text), do: text
  def collect(%__MODULE__{field: field, text: more}, text), do: Map.update(text, field, more, &(&1 <> more))
end
