defmodule Dspymq.ValuesTest do
  use ExUnit.Case, async: true
  alias Dspymq.{Bin, Chunk, ConnectionError, Error, Prediction, Tool}
  alias Dspymq.Core.{Ledger, Timers}

  test "a prediction is reached into, and changed, by text and by atom" do
    prediction = %Prediction{outputs: %{"answer" => "4", "steps" => [%{"n" => 1}]}}
    assert get_in(prediction, ["steps", Access.at(0), "n"]) == 1
    assert put_in(prediction[:answer], "5").outputs["answer"] == "5"
    assert {"4", %Prediction{outputs: %{"steps" => _}}} = pop_in(prediction["answer"])
  end

  test "a reset without text leaves none" do
    assert Chunk.collect(%Chunk{reset: true}, %{"answer" => "x"}) == %{}
  end

  test "what errors say" do
    assert Exception.message(%Error{code: :internal}) == "INTERNAL"
    assert Exception.message(%Error{code: :not_found, reason: "x", message: "m"}) == "NOT_FOUND/x: m"

    for reason <- [:unreachable, :timeout, :closed, :noproc, :session_lost],
        do: assert(Exception.message(%ConnectionError{reason: reason}) =~ " ")

    assert Exception.message(%ConnectionError{reason: :unreachable, message: "m"}) == "m"
    assert inspect(%Bin{data: "secret"}) == "#Dspymq.Bin<6 bytes>"
  end

  test "details of an error that have another form do no harm" do
    message = %{
      code: "INVALID_ARGUMENT",
      reason: "invalid_inputs",
      message: nil,
      retryable: false,
      retry_after_ms: nil
    }

    fields = [
      %{"field" => "a", "problem" => "missing"},
      %{"field" => "b", "message" => 7},
      "junk",
      %{"field" => 1}
    ]

    assert %{fields: %{"a" => "missing", "b" => "7"}} =
             Error.from_message(Map.put(message, :details, %{"fields" => fields}))

    assert %{fields: %{}} = Error.from_message(Map.put(message, :details, %{"fields" => 1}))
  end

  test "a tool that cannot be offered is refused when it is made" do
    run = fn _ -> 1 end

    for name <- ["", "a b", "ä", "finish", String.duplicate("x", 65), :atom],
        do: assert_raise(ArgumentError, ~r/name/, fn -> Tool.new(name, run) end)

    assert_raise ArgumentError, ~r/one argument/, fn -> Tool.new("t", fn -> 1 end) end
    assert_raise ArgumentError, ~r/:timeout/, fn -> Tool.new("t", run, timeout: 0) end
    assert_raise ArgumentError, ~r/no options \[:parmeters\]/, fn -> Tool.new("t", run, parmeters: []) end

    assert_raise ArgumentError, ~r/no type of a parameter: :text/, fn ->
      Tool.new("t", run, parameters: [a: :text])
    end

    assert_raise ArgumentError, ~r/keyword list or a map/, fn -> Tool.new("t", run, parameters: "x") end

    assert_raise ArgumentError, ~r/cannot be a Dspymq.Bin/, fn ->
      Tool.new("t", run, parameters: %Bin{data: ""})
    end

    schema = %{"type" => "object", "properties" => %{"a" => %{"type" => "array"}}}
    assert Tool.new("t", run, parameters: schema).parameters == schema
    tool = Tool.new("t", run, parameters: [a: {:array, :integer}, b: %{"enum" => [1, 2]}])

    assert tool.parameters["properties"] == %{
             "a" => %{"type" => "array", "items" => %{"type" => "integer"}},
             "b" => %{"enum" => [1, 2]}
           }
  end

  test "what a tool gives becomes an answer" do
    answer = fn run -> Tool.answer(Tool.new("t", run), %{}) end
    assert %{code: "OK", body: <<0x81, 0xA5, "value", 5>>} = answer.(fn _ -> 5 end)
    assert %{code: "UNKNOWN", message: "throw: :x"} = answer.(fn _ -> throw(:x) end)

    assert %{code: "UNKNOWN", message: "no such file"} =
             answer.(fn _ -> {:error, %RuntimeError{message: "no such file"}} end)

    assert %{code: "UNKNOWN", message: ":enoent"} = answer.(fn _ -> {:error, :enoent} end)
    assert %{message: message} = answer.(fn _ -> raise String.duplicate("long ", 1_000) end)
    assert String.length(message) == 500
  end

  test "answers of tools are kept up to a bound, the oldest are given up first" do
    mib = String.duplicate("x", 10 * 1024 * 1024)

    ledger =
      Enum.reduce(0..3, %Ledger{}, fn call, ledger ->
        {{:run, run, false}, ledger} = Ledger.came(ledger, %{attempt: 1, call: call}, call)
        {{1, ^call}, ledger} = Ledger.answered(ledger, run, %{code: "OK", message: nil, body: mib})
        ledger
      end)

    assert {{:answered, %{code: "DATA_LOSS"}}, _} = Ledger.came(ledger, %{attempt: 1, call: 0}, 0)

    for call <- 1..3,
        do: assert({{:answered, %{code: "OK"}}, _} = Ledger.came(ledger, %{attempt: 1, call: call}, call))
  end

  test "timers" do
    timers =
      %Timers{} |> Timers.put(:a, 5) |> Timers.put(:b, -3) |> Timers.put(:a, 1) |> Timers.cancel(:nothing)

    assert Timers.next(timers) == -3
    assert Timers.at(timers, :a) == 1
    assert {:b, timers} = Timers.pop(timers, 0)
    assert Timers.pop(timers, 0) == nil
    assert {:a, timers} = Timers.pop(timers, 1)
    assert Timers.next(timers) == nil
    assert Timers.pop(timers, 99) == nil
    assert timers |> Timers.put(:c, 1) |> Timers.cancel(:c) |> Timers.next() == nil
  end
end
