defmodule Dspymq.Msgpack do
  @moduledoc """
  msgpack, as far as DJP/1 has it (SPEC.md, sections 2.2 and 2.6).

  A plain binary is written as `str`, and must be valid UTF-8; bytes are wrapped in `Dspymq.Bin`. Reading never makes
  atoms: keys and text come back as binaries.

      iex> {:ok, data} = Dspymq.Msgpack.encode(%{question: "2+2?", tries: 3})
      iex> Dspymq.Msgpack.decode(data)
      {:ok, %{"question" => "2+2?", "tries" => 3}}

      iex> {:error, error} = Dspymq.Msgpack.encode(%{photo: <<255, 216>>})
      iex> Exception.message(error)
      "photo: not valid UTF-8; wrap bytes in %Dspymq.Bin{data: ...}"

      iex> Dspymq.Msgpack.decode(<<0xC4, 2, 255, 216>>)
      {:ok, %Dspymq.Bin{data: <<255, 216>>}}

  What Elixir has no term for is read as an atom that says it: `:nan`, `:infinity` and `:neg_infinity`. An extension
  type is read as `{:ext, type, data}`. Neither can be written.
  """

  alias Dspymq.Msgpack.{Decoder, Encoder, Error}

  @max_depth 512

  @doc """
  Writes a term as one binary.

  The error's message begins with the path to the value that cannot be written.
  """
  @spec encode(term) :: {:ok, binary} | {:error, Error.t()}
  def encode(term) do
    {:ok, IO.iodata_to_binary(Encoder.encode(term, @max_depth))}
  rescue
    error in Error -> {:error, error}
  end

  @doc """
  Writes a term as one binary; raises `Dspymq.Msgpack.Error`.

      iex> Dspymq.Msgpack.encode!([1, nil, true])
      <<0x93, 1, 0xC0, 0xC3>>
  """
  @spec encode!(term) :: binary
  def encode!(term), do: IO.iodata_to_binary(Encoder.encode(term, @max_depth))

  @doc """
  Reads one term, with nothing after it.

  Options:

    * `:profile` - `:header` takes only what a header may hold (SPEC.md, R-2.5): no `bin`, `ext`, NaN or infinity, keys
      that are text and stand once. `:body`, the default, takes all.
    * `:max_depth` - how deep maps and arrays may nest, #{@max_depth} if not given.

        iex> Dspymq.Msgpack.decode(<<0xC4, 0>>, profile: :header)
        {:error, %Dspymq.Msgpack.Error{message: "bin is not allowed here"}}
  """
  @spec decode(binary, keyword) :: {:ok, term} | {:error, Error.t()}
  def decode(data, opts \\ []) when is_binary(data) do
    strict = Keyword.get(opts, :profile, :body) == :header

    case Decoder.decode(data, Keyword.get(opts, :max_depth, @max_depth), strict) do
      {value, <<>>} -> {:ok, value}
      {_, rest} -> {:error, %Error{message: "#{byte_size(rest)} octets after the end"}}
    end
  catch
    {:bad_msgpack, message} -> {:error, %Error{message: message}}
  end
end
