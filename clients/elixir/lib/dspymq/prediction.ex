defmodule Dspymq.Prediction do
  @moduledoc """
  The outputs of a job that went well, and what is known of its run.

      iex> prediction = %Dspymq.Prediction{outputs: %{"answer" => "4"}}
      iex> prediction["answer"]
      "4"
      iex> prediction[:answer]
      "4"
      iex> prediction["reasoning"]
      nil

  Fields:

    * `outputs` - by name, with text as keys
    * `job`, `attempt` - the job's id, and which attempt it was: 1 unless it had to be run again
    * `revision` - of the program that ran
    * `usage` - `%{calls: 1, models: %{"small" => %{input_tokens: 9, output_tokens: 1, cost: nil}}}`, or nil
    * `timings` - `%{queued_ms: 0, run_ms: 640, lm_ms: 630}`, or nil
  """

  @behaviour Access

  defstruct outputs: %{}, job: nil, attempt: 1, revision: nil, usage: nil, timings: nil

  @type usage :: %{
          calls: non_neg_integer,
          models: %{
            optional(String.t()) => %{
              input_tokens: non_neg_integer,
              output_tokens: non_neg_integer,
              cost: number | nil
            }
          }
        }
  @type timings :: %{
          queued_ms: non_neg_integer | nil,
          run_ms: non_neg_integer | nil,
          lm_ms: non_neg_integer | nil
        }
  @type t :: %__MODULE__{
          outputs: %{optional(String.t()) => term},
          job: String.t() | nil,
          attempt: non_neg_integer,
          revision: String.t() | nil,
          usage: usage | nil,
          timings: timings | nil
        }

  @impl Access
  def fetch(%__MODULE__{outputs: outputs}, name), do: Map.fetch(outputs, key(name))

  @impl Access
  def get_and_update(%__MODULE__{outputs: outputs} = prediction, name, fun) do
    {value, outputs} = Map.get_and_update(outputs, key(name), fun)
    {value, %{prediction | outputs: outputs}}
  end

  @impl Access
  def pop(%__MODULE__{outputs: outputs} = prediction, name) do
    {value, outputs} = Map.pop(outputs, key(name))
    {value, %{prediction | outputs: outputs}}
  end

  defp key(name) when is_atom(name), do: Atom.to_string(name)
  defp key(name), do: name
end
