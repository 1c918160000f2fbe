defmodule Dspymq.Zmtp do
  @moduledoc """
  ZMTP 3.1 for a DEALER, with the mechanisms NULL and PLAIN: octets in, events out. Pure; see SPEC.md, appendix A, and
  https://rfc.zeromq.org/spec/37/.

      {output, zmtp} = Dspymq.Zmtp.new()       # send the output
      {events, zmtp} = Dspymq.Zmtp.push(zmtp, octets)

  Octets may be cut anywhere. Events, in their order:

    * `{:send, iodata}` - send this now
    * `:ready` - the handshake is over: messages may be sent, see `frames/1`
    * `{:message, frames}` - a message came; of one with more than four frames only the first are kept
    * `{:error, reason}` - this is no peer for us; nothing comes after it

  A frame that is cut into many reads is put together once, when it is there: a frame of 16 MiB costs two copies.
  """

  import Bitwise

  @max_frame 134_217_728
  @max_command 65_536
  @kept_frames 4

  @more 1
  @long 2
  @command 4
  @known_flags @more ||| @long ||| @command

  defstruct state: :greeting,
            mechanism: :null,
            username: "",
            password: "",
            chunks: [],
            have: 0,
            need: 1,
            frames: [],
            count: 0,
            max_frame: @max_frame

  @opaque t :: %__MODULE__{}
  @type event :: {:send, iodata} | :ready | {:message, [binary]} | {:error, String.t()}

  @doc """
  A connection's beginning: the octets to send at once, and the parser.

  Options: `:username` and `:password` (then the mechanism is PLAIN), `:max_frame` (octets, 128 MiB if not given).
  """
  @spec new(keyword) :: {iodata, t}
  def new(opts \\ []) do
    username = opts[:username]

    zmtp = %__MODULE__{
      mechanism: if(username, do: :plain, else: :null),
      username: username || "",
      password: opts[:password] || "",
      max_frame: opts[:max_frame] || @max_frame
    }

    {greeting(zmtp.mechanism), zmtp}
  end

  @doc """
  The octets of a message.

      iex> IO.iodata_to_binary(Dspymq.Zmtp.frames(["DJP1", "x"]))
      <<1, 4, "DJP1", 0, 1, "x">>
  """
  @spec frames([iodata]) :: iodata
  def frames([last]), do: frame(0, last)
  def frames([first | rest]), do: [frame(@more, first) | frames(rest)]

  @doc "The event of each thing that these octets complete."
  @spec push(t, binary) :: {[event], t}
  def push(%{state: :failed} = zmtp, _), do: {[], zmtp}

  def push(zmtp, octets) do
    have = zmtp.have + byte_size(octets)

    if have < zmtp.need do
      {[], %{zmtp | chunks: [octets | zmtp.chunks], have: have}}
    else
      data =
        case zmtp.chunks do
          [] -> octets
          chunks -> IO.iodata_to_binary(:lists.reverse(chunks, [octets]))
        end

      parse(zmtp, data, [])
    end
  end

  # The greeting: signature, version, mechanism, as-server, filler.

  defp parse(%{state: :greeting} = zmtp, <<0xFF, _::binary-8, 0x7F, rest::binary>> = data, events) do
    case rest do
      <<major, _minor, name::binary-20, _as_server, _::binary-31, rest::binary>> ->
        cond do
          major < 3 ->
            failed(zmtp, events, "it speaks ZMTP #{major}, not 3")

          mechanism(name) != mechanism_name(zmtp.mechanism) ->
            failed(
              zmtp,
              events,
              "its mechanism is #{mechanism(name)}, ours #{mechanism_name(zmtp.mechanism)}"
            )

          true ->
            parse(%{zmtp | state: :handshake}, rest, [{:send, introduction(zmtp)} | events])
        end

      _ ->
        wait(zmtp, data, 64, events)
    end
  end

  defp parse(%{state: :greeting} = zmtp, data, events) do
    if junk?(data), do: failed(zmtp, events, "it does not speak ZMTP"), else: wait(zmtp, data, 10, events)
  end

  defp parse(zmtp, <<flags, _::binary>>, events) when flags > @known_flags do
    failed(zmtp, events, "a frame has unknown flags")
  end

  defp parse(zmtp, <<flags, size::64, rest::binary>> = data, events) when (flags &&& @long) != 0 do
    body(zmtp, flags, size, rest, data, 9, events)
  end

  defp parse(zmtp, <<flags, size, rest::binary>> = data, events) when (flags &&& @long) == 0 do
    body(zmtp, flags, size, rest, data, 2, events)
  end

  defp parse(zmtp, <<flags, _::binary>> = data, events) when (flags &&& @long) != 0,
    do: wait(zmtp, data, 9, events)

  defp parse(zmtp, data, events), do: wait(zmtp, data, 2, events)

  defp body(zmtp, flags, size, rest, data, head, events) do
    limit = if (flags &&& @command) != 0, do: @max_command, else: zmtp.max_frame

    case rest do
      _ when size > limit -> failed(zmtp, events, "a frame of #{size} octets; the limit is #{limit}")
      <<body::binary-size(size), rest::binary>> -> frame(zmtp, flags, own(body), rest, events)
      _ -> wait(zmtp, data, head + size, events)
    end
  end

  # A small frame must not keep alive the large read that it came in.
  defp own(body) do
    if :binary.referenced_byte_size(body) > 2 * byte_size(body) + 256, do: :binary.copy(body), else: body
  end

  defp frame(%{state: :ready} = zmtp, flags, body, rest, events) when (flags &&& @command) != 0 do
    case body do
      <<4, "PING", _ttl::16, context::binary>> ->
        pong = <<4, "PONG", binary_part(context, 0, min(16, byte_size(context)))::binary>>
        parse(zmtp, rest, [{:send, command(pong)} | events])

      _ ->
        parse(zmtp, rest, events)
    end
  end

  defp frame(%{state: :ready} = zmtp, flags, body, rest, events) do
    frames = if zmtp.count < @kept_frames, do: [body | zmtp.frames], else: zmtp.frames

    if (flags &&& @more) != 0 do
      parse(%{zmtp | frames: frames, count: zmtp.count + 1}, rest, events)
    else
      parse(%{zmtp | frames: [], count: 0}, rest, [{:message, :lists.reverse(frames)} | events])
    end
  end

  defp frame(zmtp, flags, body, rest, events) when (flags &&& @command) != 0 do
    case {zmtp.mechanism, body} do
      {_, <<5, "ERROR", size, reason::binary-size(size), _::binary>>} ->
        failed(zmtp, events, "it refuses us: #{inspect(reason)}")

      {:plain, <<7, "WELCOME", _::binary>>} ->
        parse(zmtp, rest, [{:send, command([<<8, "INITIATE">> | metadata()])} | events])

      {_, <<5, "READY", properties::binary>>} ->
        ready(zmtp, properties, rest, events)

      _ ->
        failed(zmtp, events, "an unexpected command in the handshake")
    end
  end

  defp frame(zmtp, _, _, _, events), do: failed(zmtp, events, "a message before READY")

  defp ready(zmtp, properties, rest, events) do
    case socket_type(properties) do
      type when type in [nil, "ROUTER", "DEALER", "REP"] ->
        parse(%{zmtp | state: :ready, password: ""}, rest, [:ready | events])

      type ->
        failed(zmtp, events, "it is a #{inspect(type)} socket, not a ROUTER")
    end
  end

  defp socket_type(<<size, name::binary-size(size), length::32, value::binary-size(length), rest::binary>>) do
    if String.downcase(name, :ascii) == "socket-type", do: value, else: socket_type(rest)
  end

  defp socket_type(_), do: nil

  defp wait(zmtp, data, need, events) do
    chunks = if data == <<>>, do: [], else: [data]
    {:lists.reverse(events), %{zmtp | chunks: chunks, have: byte_size(data), need: need}}
  end

  defp failed(zmtp, events, reason) do
    {:lists.reverse([{:error, reason} | events]), %{zmtp | state: :failed, chunks: [], frames: []}}
  end

  # Junk is seen in the first octets, before 64 of them have come.
  defp junk?(<<0xFF, _::binary-8, last, _::binary>>), do: last != 0x7F
  defp junk?(<<0xFF, _::binary>>), do: false
  defp junk?(<<>>), do: false
  defp junk?(_), do: true

  defp greeting(mechanism) do
    [<<0xFF, 0::64, 0x7F, 3, 1>>, String.pad_trailing(mechanism_name(mechanism), 20, <<0>>), <<0::256>>]
  end

  defp introduction(%{mechanism: :null}), do: command([<<5, "READY">> | metadata()])

  defp introduction(%{username: username, password: password}) do
    command([<<5, "HELLO", byte_size(username)>>, username, byte_size(password), password])
  end

  defp metadata, do: [<<11, "Socket-Type", 6::32, "DEALER">>, <<8, "Identity", 0::32>>]

  defp mechanism_name(:null), do: "NULL"
  defp mechanism_name(:plain), do: "PLAIN"

  defp mechanism(name), do: name |> :binary.split(<<0>>) |> hd()

  defp command(body), do: frame(@command, body)

  defp frame(flags, body) do
    case IO.iodata_length(body) do
      size when size < 256 -> [<<flags, size>>, body]
      size -> [<<flags ||| @long, size::64>>, body]
    end
  end
end
