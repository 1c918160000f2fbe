defmodule Dspymq.Test.Json do
  @moduledoc "JSON for the tests and the conformance driver: the client itself needs none."

  @doc "Reads one value. Raises ArgumentError or FunctionClauseError for what is no JSON."
  def read!(text) do
    {value, rest} = value(space(text))
    "" = space(rest)
    value
  end

  defp value("{" <> rest), do: object(space(rest), %{})
  defp value("[" <> rest), do: array(space(rest), [])
  defp value("\"" <> rest), do: string(rest, [])
  defp value("true" <> rest), do: {true, rest}
  defp value("false" <> rest), do: {false, rest}
  defp value("null" <> rest), do: {nil, rest}

  defp value(text) do
    [number] = Regex.run(~r/\A-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/, text)
    rest = binary_part(text, byte_size(number), byte_size(text) - byte_size(number))

    case Integer.parse(number) do
      {integer, ""} -> {integer, rest}
      _ -> {number |> Float.parse() |> elem(0), rest}
    end
  end

  defp object("}" <> rest, map), do: {map, rest}

  defp object("\"" <> rest, map) do
    {key, rest} = string(rest, [])
    ":" <> rest = space(rest)
    {value, rest} = value(space(rest))
    map = Map.put(map, key, value)

    case space(rest) do
      "," <> rest -> object(space(rest), map)
      "}" <> rest -> {map, rest}
    end
  end

  defp array("]" <> rest, items), do: {Enum.reverse(items), rest}

  defp array(text, items) do
    {item, rest} = value(text)

    case space(rest) do
      "," <> rest -> array(space(rest), [item | items])
      "]" <> rest -> {Enum.reverse([item | items]), rest}
    end
  end

  defp string("\"" <> rest, parts), do: {IO.iodata_to_binary(Enum.reverse(parts)), rest}

  defp string(<<"\\u", high::binary-4, "\\u", low::binary-4, rest::binary>> = text, parts) do
    case {hex(high), hex(low)} do
      {h, l} when h in 0xD800..0xDBFF and l in 0xDC00..0xDFFF ->
        string(rest, [<<0x10000 + (h - 0xD800) * 0x400 + l - 0xDC00::utf8>> | parts])

      {h, _} ->
        <<_::binary-6, rest::binary>> = text
        string(rest, [<<h::utf8>> | parts])
    end
  end

  defp string(<<"\\u", code::binary-4, rest::binary>>, parts), do: string(rest, [<<hex(code)::utf8>> | parts])

  defp string(<<"\\", octet, rest::binary>>, parts) do
    escaped = %{
      ?n => "\n",
      ?t => "\t",
      ?r => "\r",
      ?b => "\b",
      ?f => "\f",
      ?/ => "/",
      ?\\ => "\\",
      ?" => "\""
    }

    string(rest, [Map.fetch!(escaped, octet) | parts])
  end

  defp string(text, parts) do
    size = text |> :binary.match(["\"", "\\"]) |> elem(0)
    <<part::binary-size(size), rest::binary>> = text
    string(rest, [part | parts])
  end

  defp hex(text), do: String.to_integer(text, 16)

  defp space(<<octet, rest::binary>>) when octet in [?\s, ?\t, ?\r, ?\n], do: space(rest)
  defp space(text), do: text

  @doc "Writes a value: nil, booleans, numbers, text, atoms, lists and maps. Bytes become text of their hexadecimal."
  def write(nil), do: "null"
  def write(true), do: "true"
  def write(false), do: "false"
  def write(number) when is_number(number), do: to_string(number)
  def write(atom) when is_atom(atom), do: write(Atom.to_string(atom))
  def write(text) when is_binary(text), do: [?", for(<<char::utf8 <- text>>, do: char(char)), ?"]
  def write(%Dspymq.Bin{data: data}), do: write(Base.encode16(data, case: :lower))
  def write(list) when is_list(list), do: [?[, list |> Enum.map(&write/1) |> Enum.intersperse(?,), ?]]

  def write(%{} = map) do
    pairs = for {key, value} <- map, do: [write(to_string(key)), ?:, write(value)]
    [?{, Enum.intersperse(pairs, ?,), ?}]
  end

  defp char(?"), do: "\\\""
  defp char(?\\), do: "\\\\"
  defp char(char) when char < 0x20, do: ["\\u", char |> Integer.to_string(16) |> String.pad_leading(4, "0")]
  defp char(char), do: <<char::utf8>>
end
