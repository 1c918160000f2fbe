defmodule Dspymq.Client.WireTest do
  use Dspymq.Test.ClientCase, async: true
  alias Dspymq.{ConnectionError, Prediction}

  describe "the wire" do
    @tag broker: [welcome: false]
    test "what a broker sends octet by octet is read", %{client: client} do
      task = Task.async(fn -> Dspymq.call(client, "qa", %{}) end)
      assert_receive {:from_client, connection, %{t: :hello}, _}
      say = fn type, fields, body -> Dspymq.Wire.encode(type, fields, body) |> Dspymq.Zmtp.frames() end
      FakeBroker.dribble(connection, say.(:welcome, FakeBroker.welcome(), ""))
      {_, %{job: job}, _} = submitted()
      body = Dspymq.Msgpack.encode!(%{"outputs" => %{"answer" => String.duplicate("x", 300)}})
      FakeBroker.dribble(connection, say.(:result, %{job: job, attempt: 1, code: "OK"}, body))
      assert {:ok, %Prediction{outputs: %{"answer" => answer}}} = Task.await(task)
      assert byte_size(answer) == 300
    end

    test "PING of ZMTP is answered by PONG, in the middle of things", %{client: client} do
      task = Task.async(fn -> Dspymq.call(client, "qa", %{}) end)
      {connection, %{job: job}, _} = submitted()
      :sys.get_state(client)
      # The fake's own parser drops PONG, so it is seen by an octet count of what the socket sent.
      {:ok, [{:send_oct, before}]} = :inet.getstat(socket(client), [:send_oct])
      FakeBroker.raw(connection, <<4, 11, 4, "PING", 0, 100, "ctxt">>)
      eventually(fn -> :inet.getstat(socket(client), [:send_oct]) == {:ok, [{:send_oct, before + 11}]} end)
      finish(connection, job)
      assert {:ok, _} = Task.await(task)
    end

    test "16 MiB there and back in time", %{client: client} do
      photo = %Dspymq.Bin{data: :rand.bytes(16 * 1024 * 1024 - 100)}
      text = String.duplicate("0123456789abcdef", 1024 * 1024 - 10)

      {micros, result} =
        :timer.tc(fn ->
          {:ok, job} = Dspymq.submit(client, "qa", %{photo: photo})
          {connection, %{job: id}, %{"inputs" => inputs}} = submitted()
          assert inputs["photo"] == photo
          finish(connection, id, %{"text" => text})
          Dspymq.await(job)
        end)

      assert {:ok, %Prediction{outputs: %{"text" => ^text}}} = result
      assert micros < 10_000_000
    end

    @tag broker: [raw: true]
    test "a server that sends rubbish is left, and tried again with pauses; the call ends in its time", %{
      client: client
    } do
      test = self()

      task =
        Task.async(fn ->
          result = Dspymq.call(client, "qa", %{}, timeout: 1_500)
          send(test, :ended)
          result
        end)

      attempts = rubbish(0)
      assert {:error, %ConnectionError{reason: :unreachable} = error} = Task.await(task)
      assert Exception.message(error) =~ "it does not speak ZMTP"
      assert attempts in 2..30
      assert Process.alive?(client)
    end

    test "a broker that does not read blocks neither the client nor its callers' time", %{client: client} do
      {:ok, first} = Dspymq.submit(client, "qa", %{})
      {connection, %{job: id}, _} = submitted()
      FakeBroker.deaf(connection)
      big = String.duplicate("x", 8 * 1024 * 1024)
      jobs = for _ <- 1..8, {:ok, job} = Dspymq.submit(client, "qa", %{big: big}), do: job
      {micros, %{session: :live}} = :timer.tc(fn -> Dspymq.status(client) end)
      assert micros < 500_000
      # What the broker still says is heard.
      finish(connection, id)
      assert {:ok, _} = Dspymq.await(first)
      Enum.each(jobs, &Dspymq.abandon/1)
      FakeBroker.deaf(connection, false)
      for _ <- jobs, do: submitted()
      for _ <- jobs, do: assert_receive({:from_client, _, %{t: :cancel}, _})
    end

    @tag client: [send_timeout: 200]
    test "a send that is never taken ends the connection, and the jobs go out on the next", %{client: client} do
      {:ok, _} = Dspymq.submit(client, "qa", %{})
      {connection, %{job: id}, _} = submitted()
      FakeBroker.deaf(connection)

      for _ <- 1..4,
          do: {:ok, _} = Dspymq.submit(client, "qa", %{big: String.duplicate("x", 8 * 1024 * 1024)})

      assert_receive {:from_client, other, %{t: :submit, job: ^id, known_epoch: "epoch-1"}, _}
                     when other != connection
    end

    test "a lost connection is made again, and open jobs are sent again as they were", %{client: client} do
      {:ok, job} = Dspymq.submit(client, "qa", %{q: "x"})
      {connection, %{job: id}, body} = submitted()
      FakeBroker.cut(connection)
      {other, %{job: ^id, known_epoch: "epoch-1"}, ^body} = submitted()
      assert other != connection
      finish(other, id)
      assert {:ok, _} = Dspymq.await(job)
    end
  end

  # Rubbish to whoever connects, until the call has ended: how many have connected.
  defp rubbish(count) do
    receive do
      {:connected, connection} ->
        FakeBroker.raw(connection, "HTTP/1.1 400 Bad Request\r\n\r\n" <> :rand.bytes(1_000))
        rubbish(count + 1)

      :ended ->
        count

      {:raw, _, _} ->
        rubbish(count)

      {:closed, _} ->
        rubbish(count)
    end
  end

  defp socket(client), do: :sys.get_state(:sys.get_state(client).link.pid).socket
end
