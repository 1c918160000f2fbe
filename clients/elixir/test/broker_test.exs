defmodule Dspymq.BrokerTest do
  @moduledoc "Against a real broker and a real pool; the model behind it is scripted by directives (#...) in the inputs."
  use ExUnit.Case, async: false

  alias Dspymq.{Broker, Chunk, Error, Prediction, Tool}
  alias Dspymq.Test.{ClientCase, Proxy, System}

  @moduletag :broker
  @moduletag timeout: 120_000

  setup do
    %{client: start_supervised!({Dspymq, brokers: System.broker(), client_name: "elixir-tests"})}
  end

  test "a call, its usage and its timings", %{client: client} do
    assert {:ok, %Prediction{} = prediction} = Dspymq.call(client, "qa", %{question: "2+2?"})
    assert prediction["answer"] == "answer: 2+2?"
    assert %{calls: 1, models: models} = prediction.usage
    assert [%{input_tokens: tokens}] = Map.values(models)
    assert tokens > 0
    assert %{run_ms: ms} = prediction.timings
    assert is_integer(ms)
  end

  test "typed outputs of a signature in text", %{client: client} do
    signature = "text -> name, age: int, happy: bool, cities: list[str]"
    directives = ~s(#answer.age=36 #answer.happy=true #answer.cities=["Oslo"] #answer.name=Ada)
    assert {:ok, prediction} = Dspymq.call(client, signature, %{text: "Ada, 36 #{directives}"})
    assert %{"name" => "Ada", "age" => 36, "happy" => true, "cities" => ["Oslo"]} = prediction.outputs
  end

  test "text and bytes of every kind there and back", %{client: client} do
    for text <- ["", "größer als ☃ 𝄞", String.duplicate("long ", 50_000), "a\0b"] do
      assert {:ok, %{outputs: %{"text" => ^text}}} = Dspymq.call(client, "echo", %{text: text})
    end

    assert {:ok, %{outputs: %{"text" => large}}} = Dspymq.call(client, "large", %{size: 15 * 1024 * 1024})
    assert byte_size(large) == 15 * 1024 * 1024
  end

  test "errors of the broker and of the worker", %{client: client} do
    assert {:error, %Error{code: :not_found, reason: "unknown_program", details: details}} =
             Dspymq.call(client, "qaa", %{})

    assert details["close_matches"] == ["qa"]

    assert {:error, %Error{reason: "invalid_inputs", fields: %{"question" => _}}} =
             Dspymq.call(client, "qa", %{})

    assert {:error, %Error{code: :unknown, reason: "program_error"} = error} =
             Dspymq.call(client, "fail", %{text: "boom"})

    assert Exception.message(error) =~ "boom"

    assert {:error, %Error{code: :deadline_exceeded, reason: "deadline"}} =
             Dspymq.call(client, "nap", %{ms: 60_000}, timeout: 300)

    too_large = String.duplicate("x", 17 * 1024 * 1024)
    assert {:error, %Error{reason: "body_too_large"}} = Dspymq.call(client, "echo", %{text: too_large})
    fast = Dspymq.call(client, "echo", %{text: "x"}, lane: "no-such-lane", fail_fast: true)
    assert {:error, %Error{code: :unavailable, reason: "no_worker", retryable: true}} = fast
    assert_raise Error, ~r/program_error/, fn -> Dspymq.call!(client, "fail", %{text: "boom"}) end
  end

  test "a stream is the text of its result, also for a slow reader and a small window", %{client: client} do
    text = Enum.map_join(1..40, " ", &"word#{&1}")
    elements = client |> Dspymq.stream("story", %{text: text}) |> Enum.to_list()
    assert {:ok, %Prediction{outputs: %{"answer" => ^text}}} = List.last(elements)
    chunks = for {:chunk, chunk} <- elements, do: chunk
    assert length(chunks) > 3
    assert Enum.reduce(chunks, %{}, &Chunk.collect/2) == %{"answer" => text}

    slow =
      client
      |> Dspymq.stream!("story", %{text: text}, window: 1)
      |> Stream.each(fn _ -> Process.sleep(30) end)

    assert Enum.reduce(slow, %{}, &Chunk.collect/2) == %{"answer" => text}
  end

  test "a stream that is halted, a job that is cancelled and a caller that dies free their slots", %{
    client: client
  } do
    assert [%Chunk{}] =
             client |> Dspymq.stream!("story", %{text: String.duplicate("so long ", 200)}) |> Enum.take(1)

    {:ok, job} = Dspymq.submit(client, "nap", %{ms: 60_000})
    eventually(fn -> at_worker?(client, job.id) end)
    :ok = Dspymq.cancel(job)
    assert {:error, %Error{code: :cancelled, reason: "cancelled"}} = Dspymq.await(job, 10_000)
    test = self()

    caller =
      spawn(fn ->
        {:ok, job} = Dspymq.submit(client, "nap", %{ms: 60_000})
        send(test, {:job, job.id})
        Process.sleep(:infinity)
      end)

    assert_receive {:job, id}
    eventually(fn -> at_worker?(client, id) end)
    Process.exit(caller, :kill)

    eventually(fn ->
      match?({:ok, %{"state" => "done", "code" => "CANCELLED"}}, Broker.job(client, id)) or gone?(client, id)
    end)

    eventually(fn -> in_flight(client) == 0 end)
  end

  test "watching a job", %{client: client} do
    {:ok, %{ref: ref} = job} =
      Dspymq.submit(client, "steps", %{to: 3}, watch: [:accepted, :started, :progress])

    assert_receive {:dspymq, ^ref, {:news, %{t: :accepted, state: state}}}
    assert state in ["queued", "dispatched"]
    assert_receive {:dspymq, ^ref, {:news, %{t: :started, worker: worker, revision: _}}}
    assert worker =~ "pool"
    assert_receive {:dspymq, ^ref, {:news, %{t: :progress, total: 3}}}
    assert {:ok, %{outputs: %{"to" => 3}}} = Dspymq.await(job)
  end

  test "a job goes on without its client, and is joined by another", %{client: client} do
    other = start_supervised!({Dspymq, brokers: System.broker(), client_name: "elixir-tests-2"}, id: :other)
    {:ok, job} = Dspymq.submit(other, "nap", %{ms: 600}, on_disconnect: :keep)
    assert {:error, %{reason: :timeout}} = Dspymq.await(job, 200)
    :ok = stop_supervised!(:other)
    {:ok, joined} = Dspymq.attach(client, job.id)
    assert {:ok, %{outputs: %{"ms" => 600}, attempt: 1}} = Dspymq.await(joined, 10_000)
    assert {:error, %{reason: :closed}} = Dspymq.await(job, 1_000)
    {:ok, nobody} = Dspymq.attach(client, "no-such-job", timeout: 20_000)
    assert {:error, %Error{reason: "unknown_job"}} = Dspymq.await(nobody, 20_000)
  end

  test "map over many inputs", %{client: client} do
    inputs = for n <- 1..500, do: %{text: "#{n}"}
    results = client |> Dspymq.map("echo", inputs, concurrency: 50) |> Enum.map(fn {:ok, p} -> p["text"] end)
    assert results == for(n <- 1..500, do: "#{n}")
  end

  test "tools are called by a program, and by a model", %{client: client} do
    add =
      Tool.new("add", fn %{"a" => a, "b" => b} -> a + b end,
        description: "Adds.",
        parameters: [a: :integer, b: :integer]
      )

    args = %{tool: "add", args: %{a: 2, b: 40}, times: 3}
    assert {:ok, %{outputs: %{"values" => [42, 42, 42]}}} = Dspymq.call(client, "consult", args, tools: [add])
    broken = Tool.new("broken", fn _ -> raise "no" end)
    args = %{tool: "broken", args: %{}, times: 1}

    assert {:ok, %{outputs: %{"values" => ["failed"]}}} =
             Dspymq.call(client, "consult", args, tools: [broken])

    question = ~s(go #tools=add #args.add={"a": 2, "b": 3})

    assert {:ok, p} =
             Dspymq.call(client, "question -> answer", %{question: question}, kind: "react", tools: [add])

    assert p.usage.calls >= 3
  end

  # Of issue 5: the tool ran once per call id, and the job succeeded.
  test "a tool job that loses its connection between call and answer runs each call once", %{client: _} do
    proxy = start_supervised!({Proxy, System.broker()})
    client = start_supervised!({Dspymq, brokers: Proxy.address(proxy), client_name: "cut"}, id: :cut)
    runs = :counters.new(1, [])
    test = self()

    tool =
      Tool.new("slow", fn _ ->
        :counters.add(runs, 1, 1)
        number = :counters.get(runs, 1)
        send(test, {:running, number, self()})
        receive(do: (:answer -> number))
      end)

    {:ok, job} = Dspymq.submit(client, "consult", %{tool: "slow", args: %{}, times: 3}, tools: [tool])

    # Cut while it runs, answered before the new session; the call comes again and is answered from memory.
    assert_receive {:running, 1, pid}
    assert Proxy.cut(proxy) == 1
    send(pid, :answer)

    # Cut while it runs, answered after the new session.
    assert_receive {:running, 2, pid}, 10_000
    assert Proxy.cut(proxy) == 1
    eventually(fn -> Dspymq.status(client).session == :live and Dspymq.ping(client) == :ok end)
    send(pid, :answer)

    # Cut right after the answer was given, twice.
    assert_receive {:running, 3, pid}, 10_000
    send(pid, :answer)
    Proxy.cut(proxy)
    eventually(fn -> Dspymq.status(client).session == :live or Dspymq.status(client).jobs == 0 end)
    Proxy.cut(proxy)

    assert {:ok, %{outputs: %{"values" => [1, 2, 3]}, attempt: 1}} = Dspymq.await(job, 30_000)
    assert :counters.get(runs, 1) == 3
    refute_received {:running, _, _}
  end

  test "5,000 processes call at once over one connection", %{client: client} do
    {micros, answers} =
      :timer.tc(fn ->
        1..5_000
        |> Enum.map(fn n ->
          Task.async(fn -> {n, Dspymq.call(client, "echo", %{text: "#{n}"}, timeout: 100_000)} end)
        end)
        |> Task.await_many(110_000)
      end)

    for {n, answer} <- answers,
        do: assert({:ok, %{outputs: %{"text" => text}}} = answer) && assert(text == "#{n}")

    IO.puts("5,000 calls at once: #{div(micros, 1000)} ms")
    assert %{jobs: 0} = Dspymq.status(client)
    assert Process.info(client, :message_queue_len) == {:message_queue_len, 0}
  end

  test "what the broker can be asked", %{client: client} do
    assert {:ok, programs} = Broker.programs(client)
    assert "qa" in for(%{"name" => name} <- programs, do: name)
    assert {:ok, %{"inputs" => %{"properties" => %{"question" => _}}}} = Broker.program(client, "qa")
    assert {:error, %Error{reason: "unknown_program"}} = Broker.program(client, "qaa")
    assert {:ok, [%{"worker" => worker, "state" => "ready"} | _]} = Broker.workers(client)
    assert {:ok, %{"clients" => _}} = Broker.stats(client)
    assert {:error, %Error{reason: "unknown_method"}} = Dspymq.request(client, "no.such")
    {:ok, job} = Dspymq.submit(client, "echo", %{text: "x"}, on_disconnect: :keep)
    {:ok, _} = Dspymq.await(job)
    assert {:ok, jobs} = Broker.jobs(client, program: "echo", limit: 1_000)
    assert is_list(jobs)
    assert {:ok, _} = Broker.drain(client, worker, grace_ms: 60_000)
    assert {:ok, [%{"state" => "draining"} | _]} = Broker.workers(client)
    assert {:ok, _} = Broker.undrain(client, worker)
  end

  test "events of the broker", %{client: client} do
    {:ok, %{ref: ref} = subscription} = Dspymq.subscribe(client, ["job.done"])
    {:ok, job} = Dspymq.submit(client, "echo", %{text: "x"})
    {:ok, _} = Dspymq.await(job)
    id = job.id
    assert_receive {:dspymq, ^ref, {:event, %{kind: "job.done", details: %{"job" => ^id}, gap: false}}}
    :ok = Dspymq.unsubscribe(subscription)
    assert {:error, %Error{reason: "invalid_params"}} = Dspymq.subscribe(client, ["no.such"])
  end

  defp in_flight(client) do
    {:ok, workers} = Broker.workers(client)
    for(worker <- workers, {_, taken} <- worker["in_flight"], do: taken) |> Enum.sum()
  end

  # Twice as patient as with a fake broker, and more.
  defp eventually(check), do: ClientCase.eventually(check, 500)

  defp at_worker?(client, id) do
    match?({:ok, %{"state" => state}} when state in ["dispatched", "running"], Broker.job(client, id))
  end

  defp gone?(client, id), do: match?({:error, %Error{reason: "result_gone"}}, Broker.job(client, id))
end
