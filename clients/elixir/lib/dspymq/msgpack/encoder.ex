defmodule Dspymq.Msgpack.Encoder do
  @moduledoc false

  alias Dspymq.Bin
  alias Dspymq.Msgpack.Error

  @max_uint64 0xFFFFFFFFFFFFFFFF
  @min_int64 -0x8000000000000000

  @doc "The term as iodata; `depth` is how many levels are still allowed. Raises Dspymq.Msgpack.Error."
  @spec encode(term, non_neg_integer) :: iodata
  def encode(value, _) when is_binary(value), do: text(value)
  def encode(value, _) when is_integer(value), do: integer(value)
  def encode(nil, _), do: <<0xC0>>
  def encode(true, _), do: <<0xC3>>
  def encode(false, _), do: <<0xC2>>
  def encode(value, _) when is_atom(value), do: text(Atom.to_string(value))
  def encode(value, _) when is_float(value), do: <<0xCB, value::float-64>>
  def encode(%Bin{data: data}, _) when is_binary(data), do: bytes(data)
  def encode(_, 0), do: raise(Error, message: "nested too deep")
  def encode(%_{} = struct, depth), do: encode(Dspymq.Encodable.to_plain(struct), depth - 1)
  def encode(value, depth) when is_map(value), do: map(value, depth - 1)
  def encode(value, depth) when is_list(value), do: list(value, depth - 1)

  def encode(value, _) when is_tuple(value) do
    raise Error, message: "a tuple (or keyword list) has no form on the wire; use a list or a map"
  end

  def encode(value, _), do: raise(Error, message: "#{inspect(value, limit: 5)} has no form on the wire")

  defp text(value) do
    unless String.valid?(value) do
      raise Error, message: "not valid UTF-8; wrap bytes in %Dspymq.Bin{data: ...}"
    end

    case byte_size(value) do
      size when size < 32 -> [<<0b101::3, size::5>>, value]
      size when size < 0x100 -> [<<0xD9, size>>, value]
      size when size < 0x10000 -> [<<0xDA, size::16>>, value]
      size when size < 0x100000000 -> [<<0xDB, size::32>>, value]
      _ -> raise Error, message: "a text of 4 GiB and more cannot be sent"
    end
  end

  defp bytes(data) do
    case byte_size(data) do
      size when size < 0x100 -> [<<0xC4, size>>, data]
      size when size < 0x10000 -> [<<0xC5, size::16>>, data]
      size when size < 0x100000000 -> [<<0xC6, size::32>>, data]
      _ -> raise Error, message: "4 GiB of bytes and more cannot be sent"
    end
  end

  defp integer(n) when n >= 0 do
    cond do
      n < 0x80 -> <<n>>
      n < 0x100 -> <<0xCC, n>>
      n < 0x10000 -> <<0xCD, n::16>>
      n < 0x100000000 -> <<0xCE, n::32>>
      n <= @max_uint64 -> <<0xCF, n::64>>
      true -> raise Error, message: "the integer #{n} does not fit into 64 bits"
    end
  end

  defp integer(n) do
    cond do
      n >= -32 -> <<n::8>>
      n >= -0x80 -> <<0xD0, n::8>>
      n >= -0x8000 -> <<0xD1, n::16>>
      n >= -0x80000000 -> <<0xD2, n::32>>
      n >= @min_int64 -> <<0xD3, n::64>>
      true -> raise Error, message: "the integer #{n} does not fit into 64 bits"
    end
  end

  defp list(values, depth) do
    {parts, count} = items(values, depth, [], 0)

    head =
      cond do
        count < 16 -> <<0b1001::4, count::4>>
        count < 0x10000 -> <<0xDC, count::16>>
        true -> <<0xDD, count::32>>
      end

    [head | parts]
  end

  defp items([value | rest], depth, parts, count) do
    items(rest, depth, [parts | inside(value, depth, count)], count + 1)
  end

  defp items([], _, parts, count), do: {parts, count}
  defp items(_, _, _, _), do: raise(Error, message: "an improper list has no form on the wire")

  defp map(map, depth) do
    head =
      case map_size(map) do
        count when count < 16 -> <<0b1000::4, count::4>>
        count when count < 0x10000 -> <<0xDE, count::16>>
        count -> <<0xDF, count::32>>
      end

    :maps.fold(fn key, value, parts -> [parts, key(key, map) | inside(value, depth, key)] end, [head], map)
  end

  defp key(key, _) when is_binary(key), do: text(key)

  defp key(key, map) when is_atom(key) do
    name = Atom.to_string(key)

    if is_map_key(map, name) do
      raise Error, message: "the key #{inspect(name)} stands there twice, as text and as an atom"
    end

    text(name)
  end

  defp key(key, _) when is_integer(key), do: integer(key)
  defp key(key, _), do: raise(Error, message: "a key must be text or an atom, not #{inspect(key, limit: 5)}")

  # The path is put together on the way out, so that it costs nothing where nothing is wrong.
  defp inside(value, depth, key) when is_map(value) or is_list(value) do
    encode(value, depth)
  rescue
    error in Error -> reraise %{error | path: ["#{name(key)}" | error.path]}, __STACKTRACE__
  end

  defp inside(value, depth, key) do
    encode(value, depth)
  rescue
    error in Error -> reraise %{error | path: ["#{name(key)}"]}, __STACKTRACE__
  end

  defp name(key) when is_binary(key) or is_atom(key) or is_integer(key), do: key
  defp name(key), do: inspect(key)
end
