defmodule Dspymq.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :dspymq,
      version: @version,
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      elixirc_paths: elixirc_paths(Mix.env()),
      deps: [],
      description: "Calls DSPy programs that run in pools of Python processes, over DJP/1.",
      package: [
        licenses: ["Apache-2.0"],
        files: ~w(lib mix.exs .formatter.exs README.md)
      ]
    ]
  end

  # :telemetry is used when the application that depends on this one has it, and never asked for.
  def application do
    [extra_applications: [:logger, :crypto]]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_), do: ["lib"]
end
