defmodule Dspymq.Client.StartTest do
  use Dspymq.Test.ClientCase, async: true
  alias Dspymq.ConnectionError

  describe "starting" do
    test "needs no broker" do
      client = start_supervised!({Dspymq, brokers: "tcp://127.0.0.1:1", name: :nobody_there}, id: :lonely)

      assert {:error, %ConnectionError{reason: :unreachable}} =
               Dspymq.call(:nobody_there, "qa", %{}, timeout: 200)

      assert {:error, %ConnectionError{reason: :unreachable}} = Dspymq.ping(client, 200)
    end

    test "by every kind of name, under a supervisor", %{broker: broker} do
      start_supervised!({Registry, keys: :unique, name: Dspymq.Test.Registry})
      names = [:a_client, {:global, :a_global_client}, {:via, Registry, {Dspymq.Test.Registry, "x"}}]

      for name <- names do
        start_supervised!({Dspymq, name: name, brokers: broker.address})
        assert :ok = Dspymq.ping(name)
        stop_supervised!(name)
        assert {:error, %ConnectionError{reason: :noproc}} = Dspymq.ping(name)
      end
    end

    test "with options that are wrong fails at once" do
      assert_raise ArgumentError, ~r/no broker's address/, fn ->
        Dspymq.start_link(brokers: "tcp://nowhere")
      end

      assert_raise ArgumentError, ~r/no broker's address/, fn -> Dspymq.start_link(brokers: "") end
      assert_raise ArgumentError, ~r/no options \[:adress\]/, fn -> Dspymq.start_link(adress: "x") end
      assert_raise ArgumentError, ~r/:client_name/, fn -> Dspymq.start_link(client_name: "ä") end
    end

    test "addresses" do
      assert Dspymq.Address.resolve("a:1, tcp://b:2,a:1") ==
               ["tcp://a:1", "tcp://b:2"] |> List.insert_at(2, "tcp://a:1") |> Enum.uniq()

      assert Dspymq.Address.parse("tcp://[::1]:5570") == {:ok, {:tcp, {0, 0, 0, 0, 0, 0, 0, 1}, 5570, :inet6}}
      assert Dspymq.Address.parse("ipc:///run/x") == {:ok, {:local, "/run/x"}}

      for wrong <- ["tcp://a", "tcp://a:0", "tcp://:1", "udp://a:1", "tcp://[x]:1"],
          do: assert(Dspymq.Address.parse(wrong) == :error)
    end
  end

  describe "failover" do
    test "goes to the next broker when the first is gone, and back in order" do
      one = FakeBroker.start(welcome: %{epoch: "one"})
      two = FakeBroker.start(welcome: %{epoch: "two"})
      client = start_supervised!({Dspymq, brokers: [one.address, two.address]}, id: :failover)
      assert_receive {:from_client, connection, %{t: :hello}, _}
      {:ok, job} = Dspymq.submit(client, "qa", %{})
      {^connection, %{job: id}, _} = submitted()
      FakeBroker.stop(one)
      FakeBroker.cut(connection)
      {other, %{job: ^id, known_epoch: "one"}, _} = submitted()
      assert %{address: address, session: :live} = Dspymq.status(client)
      assert address == two.address
      finish(other, id)
      assert {:ok, _} = Dspymq.await(job)
    end
  end

  describe "events" do
    test "come to the subscriber until its end", %{client: client} do
      test = self()

      subscriber =
        spawn(fn ->
          {:ok, _} = Dspymq.subscribe(client, ["job"])
          receive(do: ({:dspymq, _, {:event, event}} -> send(test, event)))
          Process.sleep(:infinity)
        end)

      assert_receive {:from_client, connection, %{t: :request, method: "events.subscribe", rid: rid}, body}
      assert body == %{"params" => %{"kinds" => ["job"]}}
      FakeBroker.say(connection, :reply, %{rid: rid}, %{"result" => %{"sub" => "7"}})

      FakeBroker.say(connection, :event, %{sub: "7", seq: 0, kind: "job.done", at_ms: 9}, %{
        "event" => %{"job" => "j"}
      })

      assert_receive %Dspymq.Event{kind: "job.done", at_ms: 9, details: %{"job" => "j"}, gap: false}
      Process.exit(subscriber, :kill)

      assert_receive {:from_client, _, %{t: :request, method: "events.unsubscribe"},
                      %{"params" => %{"sub" => "7"}}}

      eventually(fn -> idle?(client) end)
    end

    test "as a stream", %{client: client} do
      task = Task.async(fn -> client |> Dspymq.events() |> Enum.take(2) end)
      assert_receive {:from_client, connection, %{t: :request, rid: rid}, _}
      FakeBroker.say(connection, :reply, %{rid: rid}, %{"result" => %{"sub" => "7"}})
      for seq <- 0..1, do: FakeBroker.say(connection, :event, %{sub: "7", seq: seq, kind: "k", at_ms: 1})
      assert [%{kind: "k"}, %{kind: "k"}] = Task.await(task)
      assert_receive {:from_client, _, %{method: "events.unsubscribe"}, _}
    end
  end
end
