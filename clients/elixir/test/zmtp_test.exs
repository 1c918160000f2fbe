defmodule Dspymq.ZmtpTest do
  use ExUnit.Case, async: true
  alias Dspymq.Zmtp

  @greeting <<0xFF, 0::64, 0x7F, 3, 1, "NULL", 0::128, 0::256>>
  @ready <<4, 38, 5, "READY", 11, "Socket-Type", 6::32, "ROUTER", 8, "Identity", 0::32>>

  defp router(greeting \\ @greeting, ready \\ @ready), do: greeting <> fix(ready)

  # The length of a command is that of what follows.
  defp fix(<<4, _, rest::binary>>), do: <<4, byte_size(rest), rest::binary>>

  defp events(chunks, opts \\ []) do
    {_, zmtp} = Zmtp.new(opts)

    {events, _} =
      Enum.reduce(chunks, {[], zmtp}, fn chunk, {events, zmtp} ->
        {more, zmtp} = Zmtp.push(zmtp, chunk)
        {events ++ more, zmtp}
      end)

    Enum.map(events, fn
      {:send, octets} -> {:send, IO.iodata_to_binary(octets)}
      other -> other
    end)
  end

  defp live(octets), do: events([router(), octets]) |> Enum.drop(2)
  defp octets(frames), do: frames |> Zmtp.frames() |> IO.iodata_to_binary()

  # The octets of SPEC.md, appendix A.
  test "the greeting, READY and a message, octet for octet" do
    {greeting, zmtp} = Zmtp.new()

    assert IO.iodata_to_binary(greeting) |> Base.encode16(case: :lower) ==
             "ff00000000000000007f03014e554c4c" <> String.duplicate("00", 48)

    {[{:send, ready}], _} = Zmtp.push(zmtp, @greeting)

    assert IO.iodata_to_binary(ready) |> Base.encode16(case: :lower) ==
             "042905524541445" <>
               "90b536f636b65742d54797065000000064445414c4552084964656e7469747900000000"

    header = <<0x82, 0xA1, ?t, 0xA4, "ping", 0xA1, ?n, 1>>
    assert octets(["DJP1", header]) == <<1, 4, "DJP1", 0, 11, header::binary>>
  end

  test "a conversation cut at each octet, into two reads and into single octets, is the same" do
    ping = fix(<<4, 0, 4, "PING", 0, 100, "ctx">>)
    long = String.duplicate("x", 300)
    talk = router() <> octets(["DJP1", "a"]) <> ping <> octets(["DJP1", long, ""]) <> octets(["z"])
    whole = events([talk])

    assert [
             {:send, _},
             :ready,
             {:message, ["DJP1", "a"]},
             {:send, pong},
             {:message, ["DJP1", ^long, ""]},
             last
           ] = whole

    assert last == {:message, ["z"]}
    assert pong == <<4, 8, 4, "PONG", "ctx">>

    for at <- 0..byte_size(talk) do
      <<one::binary-size(at), other::binary>> = talk
      assert events([one, other]) == whole
    end

    assert events(for <<octet <- talk>>, do: <<octet>>) == whole
  end

  test "no message is asked for before READY has come" do
    assert [{:send, _}] = events([@greeting])
    assert List.last(events([@greeting, octets(["DJP1"])])) == {:error, "a message before READY"}
  end

  test "a context of PING longer than 16 octets is cut" do
    assert live(fix(<<4, 0, 4, "PING", 0, 1, "0123456789abcdefXXXX">>)) == [
             {:send, <<4, 21, 4, "PONG", "0123456789abcdef">>}
           ]

    assert live(fix(<<4, 0, 4, "PING", 0, 1>>)) == [{:send, <<4, 5, 4, "PONG">>}]
  end

  test "other commands are ignored once it is up" do
    assert live(fix(<<4, 0, 4, "PONG", "x">>) <> fix(<<4, 0, 9, "SUBSCRIBE">>) <> fix(<<4, 0>>)) == []
  end

  test "frames of more than 255 octets and of 16 MiB, in small reads, take little time" do
    for size <- [0, 255, 256, 65_535, 65_536, 70_000] do
      frame = :rand.bytes(size)
      assert live(octets(["DJP1", frame])) == [{:message, ["DJP1", frame]}]
    end

    frame = :rand.bytes(16 * 1024 * 1024)
    talk = octets(["DJP1", "header", frame])
    reads = for at <- 0..div(byte_size(talk), 1_460), do: part(talk, at * 1_460, 1_460)
    {micros, found} = :timer.tc(fn -> events([router() | reads]) end)
    assert List.last(found) == {:message, ["DJP1", "header", frame]}
    # 64 ms where it was measured; appending to one growing buffer takes 40 s.
    assert micros < 5_000_000
  end

  defp part(talk, at, size), do: binary_part(talk, at, min(size, byte_size(talk) - at))

  test "a small frame does not keep alive the read that it came in" do
    many = String.duplicate(octets(["DJP1", String.duplicate("h", 100)]), 1_000)
    [{:message, [_, header]} | _] = live(many)
    assert :binary.referenced_byte_size(header) < 1_000
  end

  test "of a message with many frames the first are kept" do
    assert live(octets(["a", "b", "c", "d", "e", "f"]) <> octets(["g"])) == [
             {:message, ["a", "b", "c", "d"]},
             {:message, ["g"]}
           ]
  end

  test "what is no peer for us is refused, and nothing comes after it" do
    refused = fn talk ->
      assert {:error, reason} = List.last(events([talk, octets(["late"])]))
      reason
    end

    assert refused.("HTTP/1.1 400 Bad Request\r\n\r\n") == "it does not speak ZMTP"
    assert refused.(<<0xFF, 0::64, 0>>) == "it does not speak ZMTP"
    assert refused.(<<0xFF, 0::64, 0x7F, 1>> <> <<0::424>>) == "it speaks ZMTP 1, not 3"

    assert refused.(<<0xFF, 0::64, 0x7F, 3, 1, "CURVE", 0::120, 0::256>>) ==
             "its mechanism is CURVE, ours NULL"

    assert refused.(@greeting <> <<0x80, 1, 1>>) == "a frame has unknown flags"
    assert refused.(@greeting <> fix(<<4, 0, 5, "ERROR", 3, "why">>)) == ~s(it refuses us: "why")
    assert refused.(@greeting <> fix(<<4, 0, 5, "HELLO">>)) == "an unexpected command in the handshake"
    pub = fix(<<4, 0, 5, "READY", 11, "socket-type", 3::32, "PUB">>)
    assert refused.(@greeting <> pub) == ~s(it is a "PUB" socket, not a ROUTER)
    assert refused.(router() <> <<2, 134_217_729::64>>) =~ "the limit is 134217728"
    assert refused.(router() <> <<6, 70_000::64>>) =~ "the limit is 65536"
  end

  test "random octets never do more than fail" do
    :rand.seed(:exsss, {3, 3, 3})

    for _ <- 1..2_000 do
      noise = for _ <- 1..5, do: :rand.bytes(:rand.uniform(50))
      events(noise)
      events([router() | noise])
      events([@greeting | noise])
    end
  end

  test "PLAIN" do
    greeting = <<0xFF, 0::64, 0x7F, 3, 1, "PLAIN", 0::120, 1, 0::248>>
    welcome = fix(<<4, 0, 7, "WELCOME">>)
    found = events([greeting, welcome, fix(@ready)], username: "ada", password: "secret")
    assert [{:send, hello}, {:send, initiate}, :ready] = found
    assert hello == <<4, 17, 5, "HELLO", 3, "ada", 6, "secret">>
    assert <<4, _, 8, "INITIATE", 11, "Socket-Type", 6::32, "DEALER", _::binary>> = initiate

    assert {:error, ~s(it refuses us: "400")} =
             List.last(
               events([greeting, fix(<<4, 0, 5, "ERROR", 3, "400">>)], username: "ada", password: "wrong")
             )
  end
end
