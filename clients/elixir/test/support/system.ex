defmodule Dspymq.Test.System do
  @moduledoc """
  The broker and the pool that tests/clients/test_elixir.py runs, and its control port: one command a line, one answer.
  """

  def broker, do: System.fetch_env!("DSPYMQ_TEST_BROKER")

  @doc "`kill` or `start` the broker, `freeze` or `thaw` it, or `count LABEL`: model requests of this
  label, which a prompt has as `#job=LABEL`."
  def control(command) do
    [host, port] = String.split(System.fetch_env!("DSPYMQ_TEST_CONTROL"), ":")

    {:ok, socket} =
      :gen_tcp.connect(to_charlist(host), String.to_integer(port), [:binary, active: false, packet: :line])

    :ok = :gen_tcp.send(socket, command <> "\n")
    {:ok, "ok" <> answer} = :gen_tcp.recv(socket, 0, 60_000)
    :gen_tcp.close(socket)
    String.trim(answer)
  end
end
