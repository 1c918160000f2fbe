defmodule Dspymq.Error do
  @moduledoc """
  What the broker or the worker said instead of a prediction.

  Decide by `code` and `reason`, never by `message`:

      case Dspymq.call(client, "qa", %{question: question}) do
        {:ok, prediction} -> prediction["answer"]
        {:error, %Dspymq.Error{reason: "unknown_program"}} -> ...
        {:error, %Dspymq.Error{code: :resource_exhausted, retry_after_ms: ms}} -> ...
        {:error, %Dspymq.Error{retryable: true}} -> ...
        {:error, %Dspymq.ConnectionError{}} -> ...
      end

  Fields:

    * `code` - one of the codes of gRPC, as an atom: `:not_found`, `:deadline_exceeded`, ... A code that this version
      does not know is `:unknown`.
    * `reason` - refines the code, as text: `"unknown_program"`, `"lm_rate_limited"` (SPEC.md, section 12.3); may be nil.
    * `message` - for people.
    * `fields` - for `"invalid_inputs"`: what is wrong, by the input's name.
    * `retryable`, `retry_after_ms` - whether the same call, made again, may succeed, and not before when.
    * `details` - more, for programs (SPEC.md, section 12.4).
    * `job`, `attempt` - the job's id, and the attempt that ended it; 0 if it was never run.
    * `usage` - what the failed attempt had used of language models, or nil; as in `Dspymq.Prediction`.
  """

  defexception code: :unknown,
               reason: nil,
               message: "",
               fields: %{},
               retryable: false,
               retry_after_ms: nil,
               details: %{},
               job: nil,
               attempt: 0,
               usage: nil

  @type code ::
          :cancelled
          | :unknown
          | :invalid_argument
          | :deadline_exceeded
          | :not_found
          | :already_exists
          | :permission_denied
          | :resource_exhausted
          | :failed_precondition
          | :aborted
          | :out_of_range
          | :unimplemented
          | :internal
          | :unavailable
          | :data_loss
          | :unauthenticated

  @type t :: %__MODULE__{
          code: code,
          reason: String.t() | nil,
          message: String.t(),
          fields: %{optional(String.t()) => String.t()},
          retryable: boolean,
          retry_after_ms: non_neg_integer | nil,
          details: map,
          job: String.t() | nil,
          attempt: non_neg_integer,
          usage: Dspymq.Prediction.usage() | nil
        }

  @codes ~w(cancelled unknown invalid_argument deadline_exceeded not_found already_exists permission_denied
            resource_exhausted failed_precondition aborted out_of_range unimplemented internal unavailable
            data_loss unauthenticated)a
  @by_name Map.new(@codes, &{&1 |> Atom.to_string() |> String.upcase(), &1})

  @impl true
  def message(%{code: code, reason: reason, message: text}) do
    kind = if reason in [nil, ""], do: wire_code(code), else: "#{wire_code(code)}/#{reason}"
    if text in [nil, ""], do: kind, else: "#{kind}: #{text}"
  end

  @doc """
  The code of a name on the wire; `:unknown` for one that this version does not know.

      iex> Dspymq.Error.code("NOT_FOUND")
      :not_found
      iex> Dspymq.Error.code("A_LATER_ONE")
      :unknown
  """
  @spec code(String.t()) :: code
  def code(name), do: Map.get(@by_name, name, :unknown)

  @doc """
  The name of a code on the wire.

      iex> Dspymq.Error.wire_code(:not_found)
      "NOT_FOUND"
  """
  @spec wire_code(code) :: String.t()
  def wire_code(code), do: code |> Atom.to_string() |> String.upcase()

  @doc false
  @spec from_message(map) :: t
  def from_message(message) do
    details = message[:details] || %{}

    %__MODULE__{
      code: code(message.code),
      reason: message.reason,
      message: message.message || "",
      fields: fields(details),
      retryable: message.retryable,
      retry_after_ms: message.retry_after_ms,
      details: details,
      job: message[:job],
      attempt: message[:attempt] || 0,
      usage: message[:usage]
    }
  end

  defp fields(%{"fields" => entries}) when is_list(entries) do
    for %{"field" => field} = entry when is_binary(field) <- entries, into: %{} do
      {field, to_text(entry["message"] || entry["problem"])}
    end
  end

  defp fields(_), do: %{}

  defp to_text(value) when is_binary(value), do: value
  defp to_text(value), do: inspect(value)
end
