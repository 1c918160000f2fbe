defmodule Dspymq.Core.Text do
  @moduledoc false

  # The chunks of one job in order, and its credit (SPEC.md, section 9). Earlier attempts and duplicates are dropped; a
  # later attempt voids what came before; a gap in `seq` is mended by the next reset, at the latest by `finish`.

  alias Dspymq.Chunk

  defstruct window: 0,
            attempt: 0,
            next_seq: 0,
            upto: 0,
            read_upto: 0,
            broken: false,
            rejoining: false,
            anew: false,
            fields: []

  def new(window), do: %__MODULE__{window: window || 0}

  @doc """
  The job was sent again: a reset is to come. With `anew`, to a broker that may know nothing of it: then the job begins
  again, and that broker counts attempts and chunks from the start.
  """
  def rejoin(text, anew) do
    # Sent again and again before anything came: what the first of these brokers knew nothing of is still to begin.
    %{text | anew: anew or (text.anew and text.rejoining), rejoining: true}
  end

  @doc "A chunk came: what the reader is to be shown, nothing if it is stale."
  def take(text, message, fields) do
    if stale?(text, message) do
      {[], text}
    else
      begins = message.attempt != text.attempt or message.seq < text.next_seq
      voids = message.reset or (begins and text.fields != [])
      text = if begins, do: begin(text, message.attempt), else: text

      text =
        cond do
          message.reset ->
            %{text | broken: false, upto: max(text.upto, message.seq + text.window), fields: []}

          message.seq > text.next_seq ->
            %{text | broken: true}

          true ->
            text
        end

      pieces(%{text | next_seq: message.seq + 1, rejoining: false}, fields, voids)
    end
  end

  @doc "Another attempt was heard of: what came before it is void."
  def restart(%{attempt: now} = text, attempt) when attempt <= now, do: {[], text}

  def restart(text, attempt) do
    voids = text.fields != []
    text = begin(text, attempt)
    if voids, do: pieces(text, %{}, true), else: {[], text}
  end

  @doc "The end of the job: the chunks that mend what the reader lacks."
  def finish(text, result, outputs) do
    whole = text.attempt == result.attempt and text.next_seq == result.chunks and not text.broken

    if whole or (text.fields == [] and result.chunks == 0) do
      {[], text}
    else
      names = if text.fields == [], do: Map.keys(outputs), else: text.fields
      fields = Map.take(outputs, names)
      pieces(%{text | attempt: result.attempt, next_seq: result.chunks}, fields, true)
    end
  end

  @doc "The reader took the chunk `seq`: the `upto` of a credit that is due, or nil."
  def read(%{window: window, attempt: now} = text, attempt, _) when window == 0 or attempt != now do
    {nil, text}
  end

  def read(text, _, seq) do
    text = %{text | read_upto: max(text.read_upto, seq + 1)}
    upto = text.read_upto + text.window

    # When half of the window is used is soon enough.
    if upto - text.upto < max(1, div(text.window, 2)), do: {nil, text}, else: {upto, %{text | upto: upto}}
  end

  defp stale?(text, %{attempt: attempt, seq: seq, reset: reset}) do
    follows = attempt == text.attempt and seq == text.next_seq
    old = not (text.rejoining and text.anew) and {attempt, seq} < {text.attempt, text.next_seq}

    # What is neither a reset nor a beginning nor the very next was under way before the worker heard of the new
    # attachment: its reset will bring that text again.
    old or (text.rejoining and not (reset or seq == 0 or follows))
  end

  defp begin(text, attempt) do
    %{text | attempt: attempt, next_seq: 0, upto: text.window, read_upto: 0, broken: false, fields: []}
  end

  defp pieces(text, fields, reset) do
    seq = max(text.next_seq - 1, 0)
    found = for {name, piece} when is_binary(name) and is_binary(piece) <- fields, do: {name, piece}

    chunks = for {name, piece} <- found, do: %Chunk{field: name, text: piece, attempt: text.attempt, seq: seq}

    chunks =
      case {reset, chunks} do
        {false, chunks} -> chunks
        {true, [first | rest]} -> [%{first | reset: true} | rest]
        {true, []} -> [%Chunk{reset: true, attempt: text.attempt, seq: seq}]
      end

    {chunks, %{text | fields: Enum.uniq(text.fields ++ Enum.map(found, &elem(&1, 0)))}}
  end
end
