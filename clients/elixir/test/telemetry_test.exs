defmodule Dspymq.TelemetryTest do
  use ExUnit.Case, async: true
  alias Dspymq.Test.FakeBroker

  defmodule Handler do
    @behaviour Dspymq.Handler

    @impl true
    def handle_event([:dspymq, :tool, :start], _, _, _), do: raise("a handler that fails")

    def handle_event(event, measurements, metadata, test),
      do: send(test, {:event, event, measurements, metadata})
  end

  @tag :capture_log
  test "a handler hears of connections and jobs, without what is in them; one that fails harms nothing" do
    broker = FakeBroker.start()
    client = start_supervised!({Dspymq, brokers: broker.address, handler: {Handler, self()}, name: :told})
    address = broker.address

    assert_receive {:event, [:dspymq, :connection], %{system_time: _}, metadata}

    assert %{client: :told, address: ^address, epoch: "epoch-1", reconnection: false, restarted: false} =
             metadata

    tools = [Dspymq.Tool.new("t", fn _ -> 1 end)]

    {:ok, job} =
      Dspymq.submit(client, "qa", %{secret: "s3cret"}, tools: tools, telemetry_metadata: %{tenant: 7})

    assert_receive {:event, [:dspymq, :job, :start], %{system_time: _},
                    %{program: "qa", telemetry_metadata: %{tenant: 7}}}

    assert_receive {:from_client, connection, %{t: :submit, job: id}, _}

    FakeBroker.say(connection, :tool_call, %{job: id, attempt: 1, call: 0, name: "t", timeout_ms: 1_000}, %{
      "args" => %{}
    })

    assert_receive {:from_client, _, %{t: :tool_result, code: "OK"}, _}
    FakeBroker.say(connection, :result, %{job: id, attempt: 1, code: "OK"}, %{"outputs" => %{}})
    assert {:ok, _} = Dspymq.await(job)
    assert_receive {:event, [:dspymq, :job, :stop], %{duration: duration}, metadata}
    assert %{job: ^id, code: :ok, attempt: 1, program: "qa", client: :told} = metadata
    assert duration > 0
    refute inspect(metadata) =~ "s3cret"

    FakeBroker.stop(broker)
    FakeBroker.cut(connection)
    assert_receive {:event, [:dspymq, :disconnection], _, %{reason: "connection lost", address: ^address}}
    assert_receive {:event, [:dspymq, :failed_connection], _, %{reason: "connection refused"}}
  end

  test "the library is used where it is there" do
    # No Hex package may be asked for here: a module of its name stands in for it.
    test = self()

    Code.compile_quoted(
      quote do
        defmodule :telemetry do
          def execute(event, measurements, metadata) do
            case :persistent_term.get({:telemetry, :test}, nil) do
              nil -> :ok
              pid -> send(pid, {:telemetry, event, measurements, metadata})
            end
          end
        end
      end
    )

    :persistent_term.put({:telemetry, :test}, test)
    Dspymq.Telemetry.look()
    Dspymq.Telemetry.emit(nil, [:dspymq, :job, :start], %{system_time: 1}, %{job: "j"})
    assert_receive {:telemetry, [:dspymq, :job, :start], %{system_time: 1}, %{job: "j"}}
  end
end
