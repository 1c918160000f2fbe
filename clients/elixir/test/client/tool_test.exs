defmodule Dspymq.Client.ToolTest do
  use Dspymq.Test.ClientCase, async: true
  alias Dspymq.Tool

  describe "tools" do
    test "run in processes of their own, are bounded in time, and are stopped with their job", %{
      client: client
    } do
      test = self()
      caller = self()

      tools = [
        Tool.new("add", fn %{"a" => a, "b" => b} -> a + b end),
        Tool.new("callers", fn _ -> Process.get(:"$callers") == [caller] end),
        Tool.new("ok", fn _ -> {:ok, %{x: 1}} end),
        Tool.new("error", fn _ -> {:error, "no luck"} end),
        Tool.new("raise", fn _ -> raise "boom" end),
        Tool.new("exit", fn _ -> exit(:bye) end),
        Tool.new("dies", fn _ -> Process.exit(self(), :kill) end),
        Tool.new("bytes", fn _ -> <<255>> end),
        Tool.new("hangs", fn _ -> send(test, {:hangs, self()}) && Process.sleep(:infinity) end)
      ]

      {:ok, job} = Dspymq.submit(client, "qa", %{}, tools: tools)
      {connection, %{job: id}, _} = submitted()

      ask = fn call, name, args, timeout_ms ->
        fields = %{job: id, attempt: 1, call: call, name: name, timeout_ms: timeout_ms}
        FakeBroker.say(connection, :tool_call, fields, %{"args" => args})
      end

      for {{name, args, code, value}, call} <-
            Enum.with_index([
              {"add", %{"a" => 2, "b" => 3}, "OK", 5},
              {"callers", %{}, "OK", true},
              {"ok", %{}, "OK", %{"x" => 1}},
              {"error", %{}, "UNKNOWN", "no luck"},
              {"raise", %{}, "UNKNOWN", "RuntimeError: boom"},
              {"exit", %{}, "UNKNOWN", "exit: :bye"},
              {"dies", %{}, "UNKNOWN", "exit: :killed"},
              {"bytes", %{}, "INTERNAL",
               "what bytes returned cannot be sent: value: not valid UTF-8" <>
                 "; wrap bytes in %Dspymq.Bin{data: ...}"},
              {"add", %{"a" => 2}, "UNKNOWN", nil},
              {"nobody", %{}, "NOT_FOUND", nil}
            ]) do
        ask.(call, name, args, 5_000)
        assert_receive {:from_client, _, %{t: :tool_result, call: ^call} = answer, body}
        assert answer.code == code, inspect({name, answer})
        if code == "OK", do: assert(body == %{"value" => value}), else: assert(value in [nil, answer.message])
      end

      ask.(20, "hangs", %{}, 50)
      assert_receive {:from_client, _, %{t: :tool_result, call: 20, code: "DEADLINE_EXCEEDED"}, _}
      assert_receive {:hangs, late}
      eventually(fn -> not Process.alive?(late) end)

      # Eight at once, further ones wait.
      for call <- 21..30, do: ask.(call, "hangs", %{}, 60_000)
      running = for _ <- 1..8, do: assert_receive({:hangs, _}) |> elem(1)
      refute_receive {:hangs, _}, 50
      finish(connection, id)
      assert {:ok, _} = Dspymq.await(job)
      eventually(fn -> not Enum.any?(running, &Process.alive?/1) end)
      refute_received {:from_client, _, %{t: :tool_result}, _}
    end
  end
end
