defmodule Dspymq.Id do
  @moduledoc false

  @doc "A UUID of version 7 (RFC 9562) as lower-case text; `random` are 10 octets."
  @spec uuid7(non_neg_integer, <<_::80>>) :: String.t()
  def uuid7(unix_ms, <<a::12, b::62, _::6>>) do
    <<p::binary-8, q::binary-4, r::binary-4, s::binary-4, t::binary-12>> =
      Base.encode16(<<unix_ms::48, 7::4, a::12, 2::2, b::62>>, case: :lower)

    <<p::binary, ?-, q::binary, ?-, r::binary, ?-, s::binary, ?-, t::binary>>
  end

  @spec new() :: String.t()
  def new, do: uuid7(System.system_time(:millisecond), :crypto.strong_rand_bytes(10))
end
