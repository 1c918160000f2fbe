defmodule Dspymq.Msgpack.Decoder do
  @moduledoc false

  # One clause for each leading octet, which the compiler makes a jump of. `depth` is how many levels are still allowed, `strict` the
  # header's profile. What is wrong is thrown as {:bad_msgpack, message}.

  alias Dspymq.Bin

  @spec decode(binary, non_neg_integer, boolean) :: {term, binary}
  for size <- 0..31 do
    def decode(<<unquote(0xA0 + size), data::binary-size(unquote(size)), rest::binary>>, _, _),
      do: {text(data), rest}
  end

  for n <- 0..127 do
    def decode(<<unquote(n), rest::binary>>, _, _), do: {unquote(n), rest}
  end

  for count <- 0..15 do
    def decode(<<unquote(0x80 + count), rest::binary>>, d, s), do: map(rest, unquote(count), d, s)
    def decode(<<unquote(0x90 + count), rest::binary>>, d, s), do: list(rest, unquote(count), d, s)
  end

  for n <- 0..31 do
    def decode(<<unquote(0xE0 + n), rest::binary>>, _, _), do: {unquote(n - 32), rest}
  end

  def decode(<<0xC0, rest::binary>>, _, _), do: {nil, rest}
  def decode(<<0xC2, rest::binary>>, _, _), do: {false, rest}
  def decode(<<0xC3, rest::binary>>, _, _), do: {true, rest}
  def decode(<<0xD9, size, data::binary-size(size), rest::binary>>, _, _), do: {text(data), rest}
  def decode(<<0xDA, size::16, data::binary-size(size), rest::binary>>, _, _), do: {text(data), rest}
  def decode(<<0xDB, size::32, data::binary-size(size), rest::binary>>, _, _), do: {text(data), rest}
  def decode(<<0xCC, n, rest::binary>>, _, _), do: {n, rest}
  def decode(<<0xCD, n::16, rest::binary>>, _, _), do: {n, rest}
  def decode(<<0xCE, n::32, rest::binary>>, _, _), do: {n, rest}
  def decode(<<0xCF, n::64, rest::binary>>, _, _), do: {n, rest}
  def decode(<<0xD0, n::8-signed, rest::binary>>, _, _), do: {n, rest}
  def decode(<<0xD1, n::16-signed, rest::binary>>, _, _), do: {n, rest}
  def decode(<<0xD2, n::32-signed, rest::binary>>, _, _), do: {n, rest}
  def decode(<<0xD3, n::64-signed, rest::binary>>, _, _), do: {n, rest}
  def decode(<<0xCB, f::float-64, rest::binary>>, _, _), do: {f, rest}
  def decode(<<0xCA, f::float-32, rest::binary>>, _, _), do: {f, rest}
  def decode(<<0xCB, sign::1, _::11, part::52, rest::binary>>, _, s), do: {special(sign, part, s), rest}
  def decode(<<0xCA, sign::1, _::8, part::23, rest::binary>>, _, s), do: {special(sign, part, s), rest}
  def decode(<<0xDC, count::16, rest::binary>>, d, s), do: list(rest, count, d, s)
  def decode(<<0xDD, count::32, rest::binary>>, d, s), do: list(rest, count, d, s)
  def decode(<<0xDE, count::16, rest::binary>>, d, s), do: map(rest, count, d, s)
  def decode(<<0xDF, count::32, rest::binary>>, d, s), do: map(rest, count, d, s)
  def decode(<<0xC4, size, data::binary-size(size), rest::binary>>, _, s), do: {bin(data, s), rest}
  def decode(<<0xC5, size::16, data::binary-size(size), rest::binary>>, _, s), do: {bin(data, s), rest}
  def decode(<<0xC6, size::32, data::binary-size(size), rest::binary>>, _, s), do: {bin(data, s), rest}
  def decode(<<0xD4, type::8-signed, data::binary-1, rest::binary>>, _, s), do: {ext(type, data, s), rest}
  def decode(<<0xD5, type::8-signed, data::binary-2, rest::binary>>, _, s), do: {ext(type, data, s), rest}
  def decode(<<0xD6, type::8-signed, data::binary-4, rest::binary>>, _, s), do: {ext(type, data, s), rest}
  def decode(<<0xD7, type::8-signed, data::binary-8, rest::binary>>, _, s), do: {ext(type, data, s), rest}
  def decode(<<0xD8, type::8-signed, data::binary-16, rest::binary>>, _, s), do: {ext(type, data, s), rest}

  def decode(<<0xC7, size, type::8-signed, data::binary-size(size), rest::binary>>, _, s),
    do: {ext(type, data, s), rest}

  def decode(<<0xC8, size::16, type::8-signed, data::binary-size(size), rest::binary>>, _, s),
    do: {ext(type, data, s), rest}

  def decode(<<0xC9, size::32, type::8-signed, data::binary-size(size), rest::binary>>, _, s),
    do: {ext(type, data, s), rest}

  def decode(<<0xC1, _::binary>>, _, _), do: bad("the octet c1 is not msgpack")
  def decode(_, _, _), do: bad("cut short")

  defp list(rest, count, depth, strict) when depth > 0, do: items(rest, count, depth - 1, strict, [])
  defp list(_, _, _, _), do: bad("nested too deep")

  defp items(rest, 0, _, _, items), do: {:lists.reverse(items), rest}

  defp items(data, count, depth, strict, items) do
    {item, rest} = decode(data, depth, strict)
    items(rest, count - 1, depth, strict, [item | items])
  end

  defp map(rest, count, depth, strict) when depth > 0, do: pairs(rest, count, depth - 1, strict, %{})
  defp map(_, _, _, _), do: bad("nested too deep")

  defp pairs(rest, 0, _, _, map), do: {map, rest}

  defp pairs(data, count, depth, strict, map) do
    {key, rest} = decode(data, depth, strict)
    if strict, do: check_key(key, map)
    {value, rest} = decode(rest, depth, strict)
    pairs(rest, count - 1, depth, strict, Map.put(map, key, value))
  end

  defp check_key(key, map) when is_binary(key) do
    if is_map_key(map, key), do: bad("a key stands there twice: #{inspect(key, limit: 64)}")
  end

  defp check_key(_, _), do: bad("a key is not text")

  defp text(data), do: if(String.valid?(data), do: data, else: bad("a text is not valid UTF-8"))

  defp bin(data, false), do: %Bin{data: data}
  defp bin(_, true), do: bad("bin is not allowed here")

  defp ext(type, data, false), do: {:ext, type, data}
  defp ext(_, _, true), do: bad("ext is not allowed here")

  defp special(_, _, true), do: bad("NaN and infinities are not allowed here")
  defp special(0, 0, false), do: :infinity
  defp special(1, 0, false), do: :neg_infinity
  defp special(_, _, false), do: :nan

  @spec bad(String.t()) :: no_return
  defp bad(message), do: throw({:bad_msgpack, message})
end
