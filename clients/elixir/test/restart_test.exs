defmodule Dspymq.RestartTest do
  @moduledoc "The broker is killed, frozen and started again while calls are open."
  use ExUnit.Case, async: false

  alias Dspymq.{Error, Id}
  alias Dspymq.Test.System

  @moduletag :control
  @moduletag timeout: 180_000

  setup do
    on_exit(fn ->
      System.control("thaw")
      System.control("start")
    end)

    client = start_supervised!({Dspymq, brokers: System.broker(), client_name: "restarts"})
    :ok = Dspymq.ping(client, 30_000)
    %{client: client}
  end

  test "killed and started again under load, every call is answered once, and rightly", %{client: client} do
    label = "load-" <> Id.new()

    callers =
      for n <- 1..200 do
        Task.async(fn ->
          for round <- 1..3 do
            question = "load #{n}-#{round} #delay_ms=100 #job=#{label}"
            {question, Dspymq.call(client, "qa", %{question: question}, timeout: 120_000)}
          end
        end)
      end

    for _ <- 1..3 do
      Process.sleep(600)
      System.control("kill")
      Process.sleep(150)
      System.control("start")
    end

    answers = callers |> Task.await_many(150_000) |> List.flatten()
    assert length(answers) == 600

    for {question, answer} <- answers do
      assert {:ok, prediction} = answer
      asked = String.replace(question, "#delay_ms=100 ", "")
      assert prediction["answer"] == "answer: #{asked}", inspect({question, prediction.outputs})
    end

    assert %{jobs: 0, session: :live} = Dspymq.status(client)
    # At least once each; those that the broker's death caught between two places ran again.
    assert String.to_integer(System.control("count #{label}")) >= 600
  end

  test "a job that runs when the broker is killed is not run again", %{client: client} do
    label = "adopted-" <> Id.new()

    {:ok, job} =
      Dspymq.submit(client, "qa", %{question: "adopted #delay_ms=2500 #job=#{label}"}, watch: [:started])

    %{ref: ref} = job
    assert_receive {:dspymq, ^ref, {:news, %{t: :started}}}, 10_000
    System.control("kill")
    System.control("start")
    assert {:ok, %{attempt: 1}} = Dspymq.await(job, 60_000)
    assert System.control("count #{label}") == "1"
  end

  test "a stream goes on over the broker's death", %{client: client} do
    text = Enum.map_join(1..60, " ", &"word#{&1}")

    {_, collected, last} =
      client
      |> Dspymq.stream("story", %{text: text}, timeout: 60_000)
      |> Enum.reduce({0, %{}, nil}, fn
        {:chunk, chunk}, {count, collected, _} ->
          if count == 3, do: for(command <- ["kill", "start"], do: System.control(command))
          {count + 1, Dspymq.Chunk.collect(chunk, collected), nil}

        last, {count, collected, _} ->
          {count, collected, last}
      end)

    assert {:ok, %{outputs: %{"answer" => ^text}}} = last
    assert collected == %{"answer" => text}
  end

  test "a broker that stands still is left after dead_ms, and found again", %{client: client} do
    {:ok, job} = Dspymq.submit(client, "qa", %{question: "frozen #delay_ms=300"}, timeout: 60_000)
    System.control("freeze")

    {:ok, other} =
      Dspymq.submit(client, "qa", %{question: "sent to a broker that stands still"}, timeout: 60_000)

    assert {:error, %{reason: :timeout}} = Dspymq.await(job, 7_000)
    refute Dspymq.status(client).session == :live
    System.control("thaw")
    assert {:ok, _} = Dspymq.await(job)
    assert {:ok, _} = Dspymq.await(other)
    # A deadline passes also without a broker.
    System.control("freeze")
    late = Dspymq.call(client, "qa", %{question: "late"}, timeout: 500)
    assert {:error, %Error{code: :deadline_exceeded, reason: "deadline"}} = late
    System.control("thaw")
  end

  test "events say that some may be missing", %{client: client} do
    {:ok, %{ref: ref}} = Dspymq.subscribe(client, ["job.done"])
    System.control("kill")
    System.control("start")
    {:ok, _} = Dspymq.call(client, "echo", %{text: "x"})
    assert_receive {:dspymq, ^ref, {:event, %{kind: "job.done", gap: true}}}, 10_000
  end
end
