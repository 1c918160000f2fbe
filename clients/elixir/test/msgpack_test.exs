defmodule Dspymq.MsgpackTest do
  use ExUnit.Case, async: true
  alias Dspymq.{Bin, Msgpack}
  alias Dspymq.Test.Ticket

  defmodule Plain do
    defstruct [:a]
  end

  defp error(term) do
    {:error, error} = Msgpack.encode(term)
    Exception.message(error)
  end

  test "every width at its edges, in the shortest form" do
    for {number, hex} <- [
          {0, "00"},
          {127, "7f"},
          {128, "cc80"},
          {255, "ccff"},
          {256, "cd0100"},
          {65_535, "cdffff"},
          {65_536, "ce00010000"},
          {4_294_967_295, "ceffffffff"},
          {4_294_967_296, "cf0000000100000000"},
          {18_446_744_073_709_551_615, "cfffffffffffffffff"},
          {-1, "ff"},
          {-32, "e0"},
          {-33, "d0df"},
          {-128, "d080"},
          {-129, "d1ff7f"},
          {-32_768, "d18000"},
          {-32_769, "d2ffff7fff"},
          {-2_147_483_648, "d280000000"},
          {-2_147_483_649, "d3ffffffff7fffffff"},
          {-9_223_372_036_854_775_808, "d38000000000000000"},
          {1.5, "cb3ff8000000000000"},
          {-0.0, "cb8000000000000000"}
        ] do
      octets = Base.decode16!(hex, case: :lower)
      assert Msgpack.encode!(number) == octets
      assert {:ok, ^number} = Msgpack.decode(octets)
    end
  end

  test "texts, bytes, lists and maps at the edges of their heads" do
    for size <- [0, 31, 32, 255, 256, 65_535, 65_536] do
      text = String.duplicate("x", size)
      assert Msgpack.decode(Msgpack.encode!(text)) == {:ok, text}
      assert Msgpack.decode(Msgpack.encode!(%Bin{data: text})) == {:ok, %Bin{data: text}}
    end

    for count <- [0, 15, 16, 65_535, 65_536] do
      list = Enum.to_list(1..count//1)
      assert Msgpack.decode(Msgpack.encode!(list)) == {:ok, list}
    end

    for count <- [0, 15, 16, 65_536] do
      map = Map.new(1..count//1, &{"k#{&1}", &1})
      assert Msgpack.decode(Msgpack.encode!(map)) == {:ok, map}
    end
  end

  test "what random terms become comes back" do
    :rand.seed(:exsss, {5, 7, 11})

    for _ <- 1..500 do
      term = random(6)
      octets = Msgpack.encode!(term)
      assert Msgpack.decode(octets) == {:ok, term}
      # Cut anywhere, it is an error and nothing else.
      at = :rand.uniform(byte_size(octets)) - 1
      assert {:error, %Msgpack.Error{}} = Msgpack.decode(binary_part(octets, 0, at))
    end
  end

  test "keys make no atoms" do
    map = Map.new(1..10_000, &{"a key that nobody has #{&1}", "a text that nobody has #{&1}"})
    octets = Msgpack.encode!(map)
    before = :erlang.system_info(:atom_count)
    assert Msgpack.decode(octets) == {:ok, map}
    # Other tests, which run at the same time, may load a module or two.
    assert :erlang.system_info(:atom_count) - before < 1_000
  end

  test "random octets never do more than fail" do
    :rand.seed(:exsss, {1, 1, 2})

    for _ <- 1..20_000 do
      octets = :rand.bytes(:rand.uniform(40))
      assert {kind, _} = Msgpack.decode(octets)
      assert kind in [:ok, :error]
      assert {_, _} = Msgpack.decode(octets, profile: :header, max_depth: 8)
    end
  end

  test "atoms are text, and structs what their implementation says" do
    assert Msgpack.decode(Msgpack.encode!(%{a: :b, c: nil})) == {:ok, %{"a" => "b", "c" => nil}}
    assert Msgpack.decode(Msgpack.encode!(~D[2026-01-02])) == {:ok, "2026-01-02"}
    assert Msgpack.decode(Msgpack.encode!(~U[2026-01-02 03:04:05Z])) == {:ok, "2026-01-02T03:04:05Z"}
    assert Msgpack.decode(Msgpack.encode!(MapSet.new([1]))) == {:ok, [1]}
    assert Msgpack.decode(Msgpack.encode!(%Ticket{subject: "s", secret: "x"})) == {:ok, %{"subject" => "s"}}
  end

  test "what cannot be sent is named, with the way to it" do
    assert error(%{inputs: %{list: [1, {2, 3}]}}) =~ ~r/\Ainputs\.list\.1: a tuple/
    assert error(a: 1) =~ "tuple"
    assert error(%{"x" => %Plain{a: 1}}) =~ "x: a struct Dspymq.MsgpackTest.Plain has no form"
    assert error(%{"x" => self()}) =~ "x: #PID"
    assert error(18_446_744_073_709_551_616) =~ "64 bits"
    assert error(-9_223_372_036_854_775_809) =~ "64 bits"
    assert error(%{:a => 1, "a" => 2}) =~ "twice"
    assert error(%{1.5 => 1}) =~ "a key must be text"
    assert error([1 | 2]) =~ "improper"
    assert error(<<1::3>>) =~ "no form"
    assert error(Enum.reduce(1..600, nil, fn _, inner -> [inner] end)) =~ "nested too deep"
  end

  test "NaN, infinities and extension types are read as what they are, but not in headers" do
    for {octets, value} <- [
          {<<0xCB, 0x7FF8::16, 0::48>>, :nan},
          {<<0xCB, 0x7FF0::16, 0::48>>, :infinity},
          {<<0xCB, 0xFFF0::16, 0::48>>, :neg_infinity},
          {<<0xCA, 0x7FC0::16, 0::16>>, :nan},
          {<<0xCA, 0x7F80::16, 0::16>>, :infinity},
          {<<0xD6, 0xFF, 1, 2, 3, 4>>, {:ext, -1, <<1, 2, 3, 4>>}},
          {<<0xC7, 3, 9, "abc">>, {:ext, 9, "abc"}}
        ] do
      assert Msgpack.decode(octets) == {:ok, value}
      assert {:error, _} = Msgpack.decode(octets, profile: :header)
    end

    assert {:ok, 1.5} = Msgpack.decode(<<0xCA, 1.5::float-32>>)
  end

  test "what is wrong is refused" do
    assert {:error, %{message: "a text is not valid UTF-8"}} = Msgpack.decode(<<0xA1, 0xFF>>)
    assert {:error, %{message: "the octet c1 is not msgpack"}} = Msgpack.decode(<<0xC1>>)
    assert {:error, %{message: "1 octets after the end"}} = Msgpack.decode(<<1, 2>>)
    assert {:error, %{message: "cut short"}} = Msgpack.decode(<<0xDD, 0xFFFFFFFF::32>>)
    assert {:error, %{message: "nested too deep"}} = Msgpack.decode(String.duplicate(<<0x91>>, 600) <> <<1>>)
    assert {:error, %{message: "a key is not text"}} = Msgpack.decode(<<0x81, 1, 1>>, profile: :header)

    assert {:error, %{message: "a key" <> _}} =
             Msgpack.decode(<<0x82, 0xA1, ?a, 1, 0xA1, ?a, 1>>, profile: :header)

    assert {:ok, %{"a" => 2}} = Msgpack.decode(<<0x82, 0xA1, ?a, 1, 0xA1, ?a, 2>>)
  end

  defp random(0), do: Enum.random([nil, true, false, 0, -1, 1.25, "", "ä☃"])

  defp random(depth) do
    case :rand.uniform(7) do
      1 -> :rand.uniform(4_294_967_296) * Enum.random([1, -1, 4_000_000_000])
      2 -> :rand.uniform() * 1.0e10
      3 -> String.duplicate("é", :rand.uniform(300))
      4 -> %Bin{data: :rand.bytes(:rand.uniform(300))}
      5 -> for _ <- 1..:rand.uniform(5), do: random(depth - 1)
      6 -> Map.new(1..:rand.uniform(5), &{"k#{&1}", random(depth - 1)})
      7 -> random(0)
    end
  end
end
