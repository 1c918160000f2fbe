defmodule Dspymq.Test.Proxy do
  @moduledoc "A TCP proxy that a test can cut: it stands between a client and a real broker."

  use GenServer

  def start_link(target), do: GenServer.start_link(__MODULE__, target)

  @doc "The address to connect to."
  def address(proxy), do: GenServer.call(proxy, :address)

  @doc "Ends all connections without a word; new ones are taken."
  def cut(proxy), do: GenServer.call(proxy, :cut)

  @impl true
  def init("tcp://" <> target) do
    [host, port] = String.split(target, ":")
    {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
    {:ok, own} = :inet.port(listener)
    proxy = self()
    spawn_link(fn -> accept(listener, proxy, {to_charlist(host), String.to_integer(port)}) end)
    {:ok, %{address: "tcp://127.0.0.1:#{own}", pairs: []}}
  end

  @impl true
  def handle_call(:address, _, state), do: {:reply, state.address, state}

  def handle_call(:cut, _, state) do
    for {pid, one, other} <- state.pairs do
      Process.exit(pid, :kill)
      :gen_tcp.close(one)
      :gen_tcp.close(other)
    end

    {:reply, length(state.pairs), %{state | pairs: []}}
  end

  @impl true
  def handle_info({:pair, pair}, state), do: {:noreply, %{state | pairs: [pair | state.pairs]}}

  defp accept(listener, proxy, {host, port} = target) do
    {:ok, one} = :gen_tcp.accept(listener)

    case :gen_tcp.connect(host, port, [:binary, active: false]) do
      {:ok, other} ->
        pid = spawn(fn -> receive(do: (:begin -> pump(one, other))) end)
        for socket <- [one, other], do: :ok = :gen_tcp.controlling_process(socket, pid)
        send(proxy, {:pair, {pid, one, other}})
        send(pid, :begin)

      _ ->
        :gen_tcp.close(one)
    end

    accept(listener, proxy, target)
  end

  defp pump(one, other) do
    for socket <- [one, other], do: :inet.setopts(socket, active: true)
    pump_loop(one, other)
  end

  defp pump_loop(one, other) do
    receive do
      {:tcp, ^one, data} -> :gen_tcp.send(other, data) && pump_loop(one, other)
      {:tcp, ^other, data} -> :gen_tcp.send(one, data) && pump_loop(one, other)
      {:tcp_closed, _} -> for(socket <- [one, other], do: :gen_tcp.close(socket))
    end
  end
end
