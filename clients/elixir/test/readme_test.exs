defmodule Dspymq.ReadmeTest do
  @moduledoc "What README.md shows is Elixir, and what it says to be run runs, one after the other."
  use ExUnit.Case, async: false

  @readme File.read!(Path.expand("../README.md", __DIR__))

  defp blocks, do: Regex.scan(~r/(<!-- run -->\n)?```elixir\n(.*?)```/s, @readme)

  test "every block can be read" do
    assert length(blocks()) > 10
    for [_, _, code] <- blocks(), do: assert({:ok, _} = Code.string_to_quoted(code))
  end

  @tag :broker
  test "every block that is to be run does" do
    System.put_env("DSPYMQ_BROKER", Dspymq.Test.System.broker())
    code = for [_, "<!-- run -->\n", code] <- blocks(), do: code
    assert length(code) > 7

    ExUnit.CaptureIO.capture_io(fn ->
      ExUnit.CaptureIO.capture_io(:stderr, fn ->
        Enum.reduce(code, [], fn code, binding -> code |> Code.eval_string(binding) |> elem(1) end)
      end)
    end)
  end
end
