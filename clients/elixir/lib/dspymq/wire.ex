defmodule Dspymq.Wire do
  @moduledoc """
  The messages of DJP/1 at the clients' endpoint: a header as a map with atoms as keys, and a body (SPEC.md, sections 2
  and 4).

      iex> frames = Dspymq.Wire.encode(:ping, %{n: 1})
      iex> Dspymq.Wire.decode(frames)
      {:ok, %{t: :ping, n: 1}, ""}
  """

  alias Dspymq.Msgpack
  alias Dspymq.Wire.Schema

  @tag "DJP1"
  @header_depth 8

  @type message :: %{required(:t) => atom, optional(atom) => term}
  @type problem :: %{reason: String.t(), message: String.t(), job: String.t() | nil, rid: String.t() | nil}

  @doc """
  The frames of a message. Fields that have their default are left out; fields that there are not are ignored.
  """
  @spec encode(atom, map, iodata) :: [binary, ...]
  def encode(type, fields, body \\ "") do
    name = Atom.to_string(type)
    {^type, schema} = Schema.message(name)

    header =
      for {field, key, _, default} <- schema,
          {:ok, value} when value != default and value != nil <- [Map.fetch(fields, field)],
          into: %{"t" => name},
          do: {key, value}

    case IO.iodata_length(body) do
      0 -> [@tag, Msgpack.encode!(header)]
      _ -> [@tag, Msgpack.encode!(header), body]
    end
  end

  @doc "Checks fields before they are sent: `:ok`, or the name of one that is missing or has the wrong type or value."
  @spec check(atom, map) :: :ok | {:error, atom}
  def check(type, fields) do
    {^type, schema} = Schema.message(Atom.to_string(type))

    Enum.find_value(schema, :ok, fn {field, _, kind, default} ->
      case Map.get(fields, field, default) do
        nil when default == nil -> nil
        :required -> {:error, field}
        value -> if Schema.read(value, kind) == :error, do: {:error, field}
      end
    end)
  end

  @doc """
  The message of these frames, with defaults for fields that were left out, and the body's octets.

  What is no message of DJP/1 is an error that names the job or the request, as far as they could be read.
  """
  @spec decode([binary]) :: {:ok, message, binary} | {:error, problem}
  def decode([@tag, header]), do: decode_header(header, "")
  def decode([@tag, header, body]), do: decode_header(header, body)
  def decode(_), do: {:error, problem("bad_frames", "not two or three frames that begin with DJP1")}

  @doc """
  The map of a body; an absent one is empty, and so is an empty array (R-2.21).

      iex> Dspymq.Wire.body(<<0x90>>)
      {:ok, %{}}
  """
  @spec body(binary) :: {:ok, map} | {:error, String.t()}
  def body(""), do: {:ok, %{}}

  def body(octets) do
    case Msgpack.decode(octets) do
      {:ok, map} when is_map(map) -> {:ok, map}
      {:ok, []} -> {:ok, %{}}
      {:ok, _} -> {:error, "the body is not a map"}
      {:error, error} -> {:error, "the body is not valid msgpack: #{Exception.message(error)}"}
    end
  end

  @doc "A part of a body that must be a map; absent, nil and an empty array are the empty map."
  @spec part({:ok, map} | {:error, String.t()}, String.t()) :: {:ok, map} | {:error, String.t()}
  def part({:ok, body}, key) do
    case body do
      %{^key => map} when is_map(map) -> {:ok, map}
      %{^key => empty} when empty in [nil, []] -> {:ok, %{}}
      %{^key => _} -> {:error, "`#{key}` is not a map"}
      _ -> {:ok, %{}}
    end
  end

  def part({:error, reason}, _), do: {:error, reason}

  defp decode_header(octets, body) do
    with {:ok, header} when is_map(header) <-
           Msgpack.decode(octets, profile: :header, max_depth: @header_depth),
         {:ok, name} <- type(header) do
      case Schema.message(name) do
        nil -> {:error, problem("unknown_type", "no message is of the type #{inspect(name)}", header)}
        {type, schema} -> fields(header, schema, %{t: type}, body)
      end
    else
      {:ok, _} -> {:error, problem("bad_header", "the header is not a map")}
      {:error, %Msgpack.Error{} = error} -> {:error, problem("bad_header", Exception.message(error))}
      {:bad_type, header} -> {:error, problem("bad_header", "`t` is missing, or not text", header)}
    end
  end

  defp type(%{"t" => name}) when is_binary(name), do: {:ok, name}
  defp type(header), do: {:bad_type, header}

  defp fields(header, [{name, key, type, default} | rest], message, body) do
    case Schema.field(header, key, type, default) do
      {:ok, value} -> fields(header, rest, Map.put(message, name, value), body)
      :error -> {:error, problem("bad_header", "`#{key}` of #{message.t} is missing or wrong", header)}
    end
  end

  defp fields(_, [], message, body), do: {:ok, message, body}

  defp problem(reason, message, header \\ %{}) do
    %{reason: reason, message: message, job: id(header["job"]), rid: id(header["rid"])}
  end

  defp id(value) when is_binary(value) and byte_size(value) <= 64, do: value
  defp id(_), do: nil
end
