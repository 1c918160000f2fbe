defmodule Dspymq.Client.StreamTest do
  use Dspymq.Test.ClientCase, async: true
  alias Dspymq.{Chunk, Error, Prediction}

  describe "a stream" do
    defp say_chunk(connection, job, seq, text) do
      FakeBroker.say(connection, :chunk, %{job: job, attempt: 1, seq: seq}, %{"fields" => %{"answer" => text}})
    end

    test "is lazy, gives credit as it is read, and ends with its result", %{client: client} do
      stream = Dspymq.stream(client, "qa", %{}, window: 2)
      refute_receive {:from_client, _, _, _}, 50
      test = self()

      task =
        Task.async(fn ->
          Enum.map(stream, fn element ->
            send(test, {:element, element})
            receive(do: (:next -> element))
          end)
        end)

      {connection, %{job: job, want: ["chunks"], window: 2}, _} = submitted()
      say_chunk(connection, job, 0, "Fo")
      say_chunk(connection, job, 1, "rty")
      assert_receive {:element, {:chunk, %Chunk{text: "Fo", field: "answer"}}}
      refute_receive {:from_client, _, %{t: :credit}, _}, 50
      send(task.pid, :next)
      assert_receive {:from_client, _, %{t: :credit, upto: 3, attempt: 1}, _}
      send(task.pid, :next)
      assert_receive {:from_client, _, %{t: :credit, upto: 4}, _}
      finish(connection, job, %{"answer" => "Forty"}, %{chunks: 2})
      assert_receive {:element, {:ok, %Prediction{}}}
      send(task.pid, :next)
      assert [{:chunk, _}, {:chunk, _}, {:ok, _}] = Task.await(task)
    end

    test "that is halted cancels its job", %{client: client} do
      stays = stay(fn -> client |> Dspymq.stream!("qa", %{}) |> Enum.take(1) end)
      {connection, %{job: job}, _} = submitted()
      say_chunk(connection, job, 0, "Fo")
      assert_receive {^stays, [%Chunk{text: "Fo"}]}
      assert_receive {:from_client, _, %{t: :cancel, job: ^job}, _}
      # What comes late is not in its mailbox.
      say_chunk(connection, job, 1, "rty")
      finish(connection, job)
      eventually(fn -> idle?(client) end)
      assert Process.info(stays, :message_queue_len) == {:message_queue_len, 0}
    end

    test "raises with a bang, and tells otherwise", %{client: client} do
      task = Task.async(fn -> catch_error(client |> Dspymq.stream!("qa", %{}) |> Enum.to_list()) end)
      {connection, %{job: job}, _} = submitted()
      FakeBroker.say(connection, :error, %{job: job, code: "NOT_FOUND", reason: "unknown_program"})
      assert %Error{code: :not_found} = Task.await(task)

      assert [{:error, %Error{reason: "invalid_body"}}] =
               client |> Dspymq.stream("qa", %{q: <<255>>}) |> Enum.to_list()
    end
  end

  describe "map" do
    test "keeps the order and the bound, and takes inputs as there is room", %{client: client} do
      test = self()
      inputs = Stream.map(1..20, &tap(%{n: &1}, fn input -> send(test, {:taken, input.n}) end))
      task = Task.async(fn -> client |> Dspymq.map("qa", inputs, concurrency: 3) |> Enum.to_list() end)
      first = for _ <- 1..3, do: submitted()
      refute_receive {:from_client, _, %{t: :submit}, _}, 50
      # One more is taken from the source while it waits for room.
      assert_received {:taken, 4}
      refute_received {:taken, 5}
      # The first is the slowest.
      [{connection, %{job: slow}, %{"inputs" => %{"n" => 1}}} | others] = first

      answer = fn {connection, %{job: job}, %{"inputs" => %{"n" => n}}} ->
        finish(connection, job, %{"n" => n})
      end

      Enum.each(others, answer)
      for _ <- 4..15, do: answer.(submitted())
      finish(connection, slow, %{"n" => 1})
      for _ <- 16..20, do: answer.(submitted())
      assert for({:ok, p} <- Task.await(task), do: p["n"]) == Enum.to_list(1..20)
    end

    test "that is stopped early cancels what is open; errors are results", %{client: client} do
      inputs = [%{n: 1}, %{n: <<255>>}, %{n: 3}, %{n: 4}]
      stays = stay(fn -> client |> Dspymq.map("qa", inputs, concurrency: 2) |> Enum.take(2) end)
      {connection, %{job: job}, _} = submitted()
      {_, %{job: open}, _} = submitted()
      finish(connection, job)
      assert_receive {^stays, [{:ok, _}, {:error, %Error{reason: "invalid_body"}}]}
      assert_receive {:from_client, _, %{t: :cancel, job: ^open}, _}
    end

    test "of nothing is nothing", %{client: client} do
      assert [] = client |> Dspymq.map("qa", []) |> Enum.to_list()
    end
  end
end
