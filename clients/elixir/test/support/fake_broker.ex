defmodule Dspymq.Test.FakeBroker do
  @moduledoc """
  A socket that speaks ZMTP and DJP/1 as a test tells it to. What comes is sent to the test's process:
  `{:from_client, connection, message, body}`, and `{:raw, connection, octets}` before the handshake in raw mode.

  A `hello` is answered by `welcome` unless `welcome: false`.
  """

  alias Dspymq.{Msgpack, Wire, Zmtp}

  @welcome %{
    epoch: "epoch-1",
    session: "s1",
    features: ["ack"],
    ping_ms: 10_000,
    dead_ms: 30_000,
    adopt_ms: 5_000,
    orphan_ms: 60_000,
    retain_ms: 600_000,
    limits: %{
      "max_header_bytes" => 65_536,
      "max_body_bytes" => 16_777_216,
      "max_timeout_ms" => 2_592_000_000,
      "max_jobs" => 500_000,
      "max_jobs_per_flow" => 250_000,
      "max_queued_bytes" => 1_073_741_824
    }
  }

  defstruct [:listener, :address, :port]

  @doc "Listens. Options: `:welcome` (false, or fields that differ), `:raw` (hand over octets, shake no hands), `:port`."
  def start(opts \\ []) do
    test = self()

    {:ok, listener} =
      :gen_tcp.listen(opts[:port] || 0, [:binary, active: false, reuseaddr: true, ip: {127, 0, 0, 1}])

    {:ok, port} = :inet.port(listener)
    pid = spawn_link(fn -> accept(listener, test, opts) end)
    :ok = :gen_tcp.controlling_process(listener, pid)
    %__MODULE__{listener: listener, address: "tcp://127.0.0.1:#{port}", port: port}
  end

  def stop(broker), do: :gen_tcp.close(broker.listener)

  @doc "Sends a message; the body is a term, or `{:octets, binary}`."
  def say(connection, type, fields, body \\ nil) do
    octets =
      case body do
        nil -> ""
        {:octets, octets} -> octets
        term -> Msgpack.encode!(term)
      end

    raw(connection, Zmtp.frames(Wire.encode(type, fields, octets)))
  end

  @doc "Sends octets as they are."
  def raw(connection, octets), do: send(connection, {:say, octets})

  @doc "Sends octets one by one."
  def dribble(connection, octets) do
    for <<octet <- IO.iodata_to_binary(octets)>>, do: raw(connection, <<octet>>)
    :ok
  end

  @doc "Closes a connection without a word."
  def cut(connection), do: send(connection, :cut)

  @doc "Reads no more (or again)."
  def deaf(connection, deaf \\ true), do: send(connection, {:deaf, deaf})

  def welcome(more \\ %{}), do: Map.merge(@welcome, Map.new(more))

  defp accept(listener, test, opts) do
    case :gen_tcp.accept(listener) do
      {:ok, socket} ->
        pid = spawn(fn -> begin(socket, test, opts) end)
        :ok = :gen_tcp.controlling_process(socket, pid)
        send(pid, :begin)
        accept(listener, test, opts)

      _ ->
        :ok
    end
  end

  defp begin(socket, test, opts) do
    receive(do: (:begin -> :ok))
    Process.monitor(test)
    :inet.setopts(socket, active: true, nodelay: true, buffer: 262_144)

    if opts[:raw] do
      send(test, {:connected, self()})
      loop(socket, test, nil, opts)
    else
      {greeting, zmtp} = Zmtp.new()
      :gen_tcp.send(socket, greeting)
      loop(socket, test, zmtp, opts)
    end
  end

  defp loop(socket, test, zmtp, opts) do
    receive do
      {:tcp, ^socket, data} when zmtp == nil ->
        send(test, {:raw, self(), data})
        loop(socket, test, zmtp, opts)

      {:tcp, ^socket, data} ->
        {events, zmtp} = Zmtp.push(zmtp, data)
        Enum.each(events, &event(&1, socket, test, opts))
        loop(socket, test, zmtp, opts)

      {:say, octets} ->
        :gen_tcp.send(socket, octets)
        loop(socket, test, zmtp, opts)

      {:deaf, deaf} ->
        :inet.setopts(socket, active: not deaf)
        loop(socket, test, zmtp, opts)

      :cut ->
        :gen_tcp.close(socket)

      {:tcp_closed, ^socket} ->
        send(test, {:closed, self()})

      {:DOWN, _, _, _, _} ->
        :gen_tcp.close(socket)
    end
  end

  defp event({:send, octets}, socket, _, _), do: :gen_tcp.send(socket, octets)
  defp event(:ready, _, _, _), do: :ok
  defp event({:error, reason}, _, test, _), do: send(test, {:refused, self(), reason})

  defp event({:message, frames}, socket, test, opts) do
    {:ok, message, body} = Wire.decode(frames)

    if message.t == :hello and opts[:welcome] != false do
      welcome = Wire.encode(:welcome, welcome(opts[:welcome] || %{}))
      :gen_tcp.send(socket, Zmtp.frames(welcome))
    end

    if message.t == :ping, do: :gen_tcp.send(socket, Zmtp.frames(Wire.encode(:pong, %{n: message.n})))
    {:ok, body} = Wire.body(body)
    send(test, {:from_client, self(), message, body})
  end
end
