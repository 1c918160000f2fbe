defmodule Dspymq.Core.ToolTest do
  use ExUnit.Case, async: true
  import Dspymq.Test.Play

  describe "a tool call" do
    defp with_tools, do: play(live(), open("j", %{want: ["tools"]})) |> elem(0)

    defp tool_call(call, more \\ %{}) do
      received(
        Map.merge(
          %{t: :tool_call, job: "j", attempt: 1, call: call, name: "add", timeout_ms: 900},
          Map.new(more)
        ),
        %{
          "args" => %{"a" => 1}
        }
      )
    end

    @answer %{code: "OK", message: nil, body: "value"}

    test "is run once, and answered as often as it comes" do
      {c, out} = play(with_tools(), tool_call(0))
      assert [{:tool_called, "j", 1, "add", {:ok, %{"a" => 1}}, 900}] = out
      {c, out} = play(c, tool_call(0))
      assert out == []
      {c, out} = play(c, {:tool_answered, "j", 1, @answer})
      assert [{:send, :tool_result, %{job: "j", attempt: 1, call: 0, code: "OK"}, "value"}] = out
      {_, out} = play(c, tool_call(0))
      assert [{:send, :tool_result, %{call: 0}, "value"}] = out
    end

    test "answered while there is no session is answered when it comes again" do
      {c, _} = play(with_tools(), [tool_call(0), pong(), {:link_down, "gone"}])
      {c, out} = play(c, {:tool_answered, "j", 1, @answer})
      assert out == []
      {c, _} = play(c, welcome(session: "s2"))
      {_, out} = play(c, tool_call(0))
      assert [{:send, :tool_result, %{call: 0}, "value"}] = out
    end

    test "of a greater attempt voids what runs; of a smaller one is ignored" do
      {c, _} = play(with_tools(), tool_call(0))
      {c, out} = play(c, tool_call(0, attempt: 2))
      assert [{:tools_void, "j"}, {:tool_called, "j", 2, _, _, _}] = out
      {c, out} = play(c, {:tool_answered, "j", 1, @answer})
      assert out == []
      {_, out} = play(c, tool_call(1, attempt: 1))
      assert out == []
    end

    test "of another broker is run again only if it is another call" do
      {c, _} =
        play(with_tools(), [tool_call(0), {:tool_answered, "j", 1, @answer}, pong(), {:link_down, "gone"}])

      {c, _} = play(c, welcome(session: "s2", epoch: "e2"))
      {_, out} = play(c, tool_call(0))
      assert [{:send, :tool_result, %{call: 0}, "value"}] = out
      {_, out} = play(c, tool_call(0, name: "other"))
      assert [{:tools_void, "j"}, {:tool_called, "j", 2, "other", _, _}] = out
    end

    test "for a job that offers none, is not open or is being cancelled is refused" do
      {_, out} = play(live(), tool_call(0, job: "first"))
      assert [{:tool_result, %{code: "NOT_FOUND"}}] = sent(out)
      {_, out} = play(live(), tool_call(0, job: "nobody's"))
      assert [{:tool_result, %{code: "NOT_FOUND"}}] = sent(out)
      {_, out} = play(with_tools(), [{:cancel, "j"}, tool_call(0)])
      assert [{:tool_result, %{code: "CANCELLED"}}] = sent(out)
    end

    test "whose answer is too large is answered so" do
      {_, out} =
        play(with_tools(), [
          tool_call(0),
          {:tool_answered, "j", 1, %{@answer | body: String.duplicate("x", 1_001)}}
        ])

      assert [{:send, :tool_result, %{code: "RESOURCE_EXHAUSTED"}, ""}] = out
    end
  end
end
