defmodule Dspymq.Test.ClientCase do
  @moduledoc "Tests of a client against a Dspymq.Test.FakeBroker: `%{broker: broker, client: client}`."
  use ExUnit.CaseTemplate
  alias Dspymq.Test.FakeBroker

  using do
    quote do
      import Dspymq.Test.ClientCase
      alias Dspymq.Test.FakeBroker
    end
  end

  setup context do
    broker = FakeBroker.start(context[:broker] || [])
    opts = [brokers: broker.address, connect: :lazy] ++ (context[:client] || [])
    client = start_supervised!({Dspymq, opts}, id: make_ref())
    %{broker: broker, client: client}
  end

  def submitted do
    assert_receive {:from_client, connection, %{t: :submit} = message, body}
    {connection, message, body}
  end

  def finish(connection, job, outputs \\ %{"answer" => "4"}, more \\ %{}) do
    FakeBroker.say(connection, :result, Map.merge(%{job: job, attempt: 1, code: "OK"}, more), %{
      "outputs" => outputs
    })
  end

  def eventually(check, left \\ 200) do
    cond do
      check.() -> :ok
      left == 0 -> flunk("it did not happen")
      true -> Process.sleep(20) && eventually(check, left - 1)
    end
  end

  def idle?(client) do
    state = :sys.get_state(client)
    state.jobs == %{} and state.owners == %{} and state.asked == %{} and state.subscribers == %{}
  end

  # Runs it in a process that lives on, and sends what it gave: its death must not be what cancels.
  def stay(fun) do
    test = self()

    start_supervised!({Task, fn -> send(test, {self(), fun.()}) && Process.sleep(:infinity) end},
      id: make_ref()
    )
  end
end
