defmodule Dspymq.Socket do
  @moduledoc false

  # Owns one TCP (or Unix) socket: connects, shakes hands, reads, parses. Its owner gets
  #
  #     {:dspymq_link, ref, {:up, writer}}          the handshake is over
  #     {:dspymq_link, ref, {:received, messages}}  what Dspymq.Wire.decode/1 made of them, bodies read
  #     {:dspymq_link, ref, {:written, octets}}     from the writer
  #     {:dspymq_link, ref, {:down, reason}}        the last one
  #
  # Writing is done by a process of its own: a peer that does not read blocks it, for `send_timeout` at most, and neither
  # the reading nor the connection's timers. A send that was cut short leaves half a message behind, so that the socket
  # is closed then (`send_timeout_close`).

  use GenServer, restart: :temporary
  alias Dspymq.{Address, Wire, Zmtp}

  @read_bytes 262_144
  @batch_bytes 262_144

  defstruct [:owner, :ref, :socket, :writer, :zmtp]

  @doc "Options: `:owner`, `:ref`, `:address`, `:connect_timeout`, `:send_timeout`, `:username`, `:password`."
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  @doc "Give these octets to the writer of a socket that is up."
  def write(writer, iodata, octets), do: send(writer, {:write, iodata, octets})

  @doc "Close when what was given to the writer has left, at the latest after `linger_ms`."
  def close(socket, linger_ms), do: GenServer.cast(socket, {:close, linger_ms})

  @impl true
  def init(opts) do
    {:ok, %__MODULE__{owner: opts[:owner], ref: opts[:ref]}, {:continue, {:connect, opts}}}
  end

  @impl true
  def handle_continue({:connect, opts}, state) do
    case connect(opts) do
      {:ok, socket} ->
        password = opts[:password] && opts[:password].()
        {greeting, zmtp} = Zmtp.new(username: opts[:username], password: password)
        parent = self()
        writer = spawn_link(fn -> write_loop(%{state | socket: socket}, parent) end)
        write(writer, greeting, 0)
        again(%{state | socket: socket, zmtp: zmtp, writer: writer})

      {:error, reason} ->
        down(state, reason)
    end
  end

  @impl true
  def handle_cast({:close, linger_ms}, state) do
    monitor = Process.monitor(state.writer || self())
    if state.writer, do: send(state.writer, :finish)

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
      {:write_failed, _} -> :ok
    after
      if(state.writer, do: linger_ms, else: 0) -> :ok
    end

    {:stop, :normal, state}
  end

  @impl true
  def handle_info({:tcp, socket, data}, %{socket: socket} = state) do
    {events, zmtp} = Zmtp.push(state.zmtp, data)
    take(%{state | zmtp: zmtp}, events, [])
  end

  def handle_info({:tcp_closed, socket}, %{socket: socket} = state), do: down(state, "connection lost")
  def handle_info({:tcp_error, socket, reason}, %{socket: socket} = state), do: down(state, text(reason))
  def handle_info({:write_failed, reason}, state), do: down(state, "cannot send: #{text(reason)}")
  def handle_info(_, state), do: {:noreply, state}

  @impl true
  def terminate(_, %{socket: nil}), do: :ok
  def terminate(_, %{socket: socket}), do: :gen_tcp.close(socket)

  defp take(state, [{:message, frames} | events], messages) do
    take(state, events, [read(frames) | messages])
  end

  defp take(state, [{:send, octets} | events], messages) do
    write(state.writer, octets, 0)
    take(state, events, messages)
  end

  defp take(state, [:ready | events], messages) do
    tell(state, {:up, state.writer})
    take(state, events, messages)
  end

  defp take(state, [{:error, reason} | _], messages) do
    report(state, messages)
    down(state, reason)
  end

  defp take(state, [], messages) do
    report(state, messages)
    again(state)
  end

  # Bodies are read here, so that a large one holds up neither the connection nor other callers.
  defp read(frames) do
    case Wire.decode(frames) do
      {:ok, message, body} -> {:received, message, Wire.body(body)}
      {:error, problem} -> {:garbled, problem}
    end
  end

  defp again(state) do
    case :inet.setopts(state.socket, active: :once) do
      :ok -> {:noreply, state}
      {:error, reason} -> down(state, text(reason))
    end
  end

  defp report(_, []), do: :ok
  defp report(state, messages), do: tell(state, {:received, :lists.reverse(messages)})

  defp down(state, reason) do
    tell(state, {:down, reason})
    {:stop, :normal, state}
  end

  defp tell(%{owner: owner, ref: ref}, what), do: send(owner, {:dspymq_link, ref, what})

  # The writer.

  defp write_loop(state, parent) do
    receive do
      {:write, iodata, octets} ->
        {iodata, octets} = gather([iodata], octets)

        case :gen_tcp.send(state.socket, iodata) do
          :ok ->
            if octets > 0, do: tell(state, {:written, octets})
            write_loop(state, parent)

          {:error, reason} ->
            send(parent, {:write_failed, reason})
        end

      :finish ->
        :ok
    end
  end

  # Many small messages leave in one call.
  defp gather(parts, octets) when octets < @batch_bytes do
    receive do
      {:write, iodata, more} -> gather([parts | iodata], octets + more)
    after
      0 -> {parts, octets}
    end
  end

  defp gather(parts, octets), do: {parts, octets}

  # Connecting.

  defp connect(opts) do
    {:ok, target} = Address.parse(opts[:address])

    case target do
      {:local, path} -> connect({:local, path}, 0, [:local], opts)
      {:tcp, host, port, :inet} -> connect_host(host, port, opts)
      {:tcp, host, port, family} -> connect(host, port, [family, nodelay: true, keepalive: true], opts)
    end
  end

  defp connect_host(host, port, opts) do
    case connect(host, port, [:inet, nodelay: true, keepalive: true], opts) do
      {:error, "non-existing domain"} -> connect(host, port, [:inet6, nodelay: true, keepalive: true], opts)
      other -> other
    end
  end

  defp connect(host, port, more, opts) do
    options =
      more ++
        [
          :binary,
          packet: :raw,
          active: false,
          buffer: @read_bytes,
          send_timeout: opts[:send_timeout] || 15_000,
          send_timeout_close: true
        ]

    with {:error, reason} <- :gen_tcp.connect(host, port, options, opts[:connect_timeout] || 5_000) do
      {:error, text(reason)}
    end
  end

  defp text(:timeout), do: "timeout"
  defp text(:closed), do: "closed"
  defp text(reason), do: reason |> :inet.format_error() |> List.to_string()
end
