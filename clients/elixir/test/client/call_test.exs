defmodule Dspymq.Client.CallTest do
  use Dspymq.Test.ClientCase, async: true
  alias Dspymq.{ConnectionError, Error, Prediction, Tool}

  describe "a call" do
    test "sends its inputs and gets its outputs", %{client: client} do
      task =
        Task.async(fn -> Dspymq.call(client, "qa", %{question: "2+2?"}, timeout: 30_000, lane: "batch") end)

      assert_receive {:from_client, connection, %{t: :hello, lang: "elixir", features: ["ack"]}, %{}}
      assert {^connection, %{program: "qa", lane: "batch", timeout_ms: ms, job: job}, body} = submitted()
      assert ms in 29_000..30_000
      assert body == %{"inputs" => %{"question" => "2+2?"}}
      finish(connection, job)
      assert {:ok, %Prediction{outputs: %{"answer" => "4"}, job: ^job}} = Task.await(task)
      assert_receive {:from_client, _, %{t: :ack, jobs: [^job]}, _}
      assert idle?(client)
    end

    test "of a signature brings it along", %{client: client} do
      tool = Tool.new("add", fn _ -> 1 end, description: "adds", timeout: 5_000)

      opts = [
        kind: "react",
        instructions: "i",
        max_iters: 3,
        config: [temperature: 0.5],
        tools: [tool],
        profile: "p"
      ]

      task = Task.async(fn -> Dspymq.call(client, "q -> a: int", %{q: "x"}, opts) end)
      {connection, message, body} = submitted()
      assert %{program: "_inline", want: ["tools"], profile: "p"} = message

      assert body["spec"] == %{
               "signature" => "q -> a: int",
               "kind" => "react",
               "instructions" => "i",
               "max_iters" => 3
             }

      assert body["config"] == %{"temperature" => 0.5}

      assert [%{"name" => "add", "description" => "adds", "timeout_ms" => 5_000, "parameters" => %{}}] =
               body["tools"]

      finish(connection, message.job, %{"a" => 7})
      assert {:ok, %{outputs: %{"a" => 7}}} = Task.await(task)
    end

    test "carries its trace", %{client: client} do
      {:ok, _} = Dspymq.submit(client, "qa", %{}, trace: %{traceparent: "00-1"})
      assert {_, %{trace: %{"traceparent" => "00-1"}}, _} = submitted()
    end

    test "that fails says why, and the bang raises it", %{client: client} do
      task = Task.async(fn -> catch_error(Dspymq.call!(client, "qa", %{})) end)
      {connection, %{job: job}, _} = submitted()
      fields = [%{"field" => "question", "problem" => "missing", "message" => "required"}]

      FakeBroker.say(connection, :result, %{
        job: job,
        attempt: 2,
        code: "INVALID_ARGUMENT",
        reason: "invalid_inputs",
        message: "no question",
        details: %{"fields" => fields},
        usage: %{"calls" => 1, "models" => %{"m" => %{"input_tokens" => 3}}}
      })

      error = Task.await(task)

      assert %Error{code: :invalid_argument, fields: %{"question" => "required"}, attempt: 2, job: ^job} =
               error

      assert error.usage == %{calls: 1, models: %{"m" => %{input_tokens: 3, output_tokens: 0, cost: nil}}}
      assert Exception.message(error) == "INVALID_ARGUMENT/invalid_inputs: no question"
    end

    test "with inputs or options that are wrong never leaves", %{client: client} do
      assert {:error, %Error{code: :invalid_argument, reason: "invalid_body"} = error} =
               Dspymq.call(client, "qa", %{q: <<255>>})

      assert Exception.message(error) =~ "inputs.q"

      assert_raise ArgumentError, ~r/no options \[:tiemout\]/, fn ->
        Dspymq.call(client, "qa", %{}, tiemout: 1)
      end

      assert_raise ArgumentError, ~r/:priority cannot be 10/, fn ->
        Dspymq.call(client, "qa", %{}, priority: 10)
      end

      assert_raise ArgumentError, ~r/:timeout must be milli/, fn ->
        Dspymq.call(client, "qa", %{}, timeout: 0)
      end

      assert_raise ArgumentError, ~r/inputs are a map/, fn -> Dspymq.call(client, "qa", question: "2+2?") end

      assert_raise ArgumentError, ~r/:watch cannot be/, fn ->
        Dspymq.submit(client, "qa", %{}, watch: [:all])
      end

      assert_raise ArgumentError, ~r/what Dspymq.Tool.new/, fn ->
        Dspymq.call(client, "qa", %{}, tools: [fn -> 1 end])
      end
    end
  end

  describe "await" do
    test "gives up when its caller does, the job goes on, and what comes late is dropped at last", %{
      client: client
    } do
      {:ok, job} = Dspymq.submit(client, "qa", %{})
      {connection, %{job: id}, _} = submitted()
      assert {:error, %ConnectionError{reason: :timeout}} = Dspymq.await(job, 10)
      assert {:error, %ConnectionError{reason: :timeout}} = Dspymq.await(job, 10)
      finish(connection, id)
      assert {:ok, %Prediction{}} = Dspymq.await(job)

      {:ok, job} = Dspymq.submit(client, "qa", %{})
      {connection, %{job: id}, _} = submitted()
      Dspymq.abandon(job)
      assert_receive {:from_client, ^connection, %{t: :cancel, job: ^id}, _}
      finish(connection, id)
      eventually(fn -> idle?(client) end)
      refute_received {:dspymq, _, _}
      refute_received {:DOWN, _, _, _, _}
    end

    test "is for the process that submitted", %{client: client} do
      {:ok, job} = Dspymq.submit(client, "qa", %{})

      assert {%ArgumentError{}, _} =
               Task.async(fn -> catch_error(Dspymq.await(job)) |> then(&{&1, 1}) end) |> Task.await()
    end

    test "ends when the client does", %{client: client} do
      {:ok, job} = Dspymq.submit(client, "qa", %{})
      {connection, _, _} = submitted()
      :ok = Dspymq.close(client)
      assert {:error, %ConnectionError{reason: :closed}} = Dspymq.await(job)
      assert_receive {:from_client, ^connection, %{t: :bye}, _}
      assert_receive {:closed, ^connection}
      assert {:error, %ConnectionError{reason: :noproc}} = Dspymq.call(client, "qa", %{})
    end

    test "ends when the client is killed", %{client: client} do
      {:ok, job} = Dspymq.submit(client, "qa", %{})
      submitted()
      Process.exit(client, :kill)
      assert {:error, %ConnectionError{reason: :closed}} = Dspymq.await(job)
    end
  end

  describe "the death of a caller" do
    test "cancels its jobs, and its jobs alone", %{client: client} do
      {:ok, mine} = Dspymq.submit(client, "qa", %{})
      {connection, %{job: mine_id}, _} = submitted()

      other =
        spawn(fn ->
          {:ok, _} = Dspymq.submit(client, "qa", %{})
          {:ok, _} = Dspymq.submit(client, "qa", %{}, on_disconnect: :keep)
          Process.sleep(:infinity)
        end)

      {_, %{job: one}, _} = submitted()
      {_, %{job: kept, on_disconnect: "keep"}, _} = submitted()
      Process.exit(other, :kill)
      assert_receive {:from_client, _, %{t: :cancel, job: ^one}, _}
      finish(connection, kept)
      FakeBroker.say(connection, :result, %{job: one, attempt: 1, code: "CANCELLED", reason: "cancelled"})
      finish(connection, mine_id)
      assert {:ok, _} = Dspymq.await(mine)
      assert_receive {:from_client, _, %{t: :ack, jobs: acked}, _}
      # What is to be kept is left for somebody else to fetch.
      assert Enum.sort(acked) == Enum.sort([one, mine_id])
      refute_received {:from_client, _, %{t: :cancel}, _}
      eventually(fn -> idle?(client) end)
    end
  end
end
