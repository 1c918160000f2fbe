defmodule Dspymq.ConnectionError do
  @moduledoc """
  What went wrong on the way to the broker, rather than there.

  A lost connection alone is no error: the client connects again and sends its open jobs again, by their ids. `reason` is

    * `:unreachable` - no broker answered at any address in the time that the call had
    * `:timeout` - the caller's patience is over; with `Dspymq.await/2` the job goes on
    * `:closed` - the client was stopped while the call was open
    * `:noproc` - there is no client of this name
    * `:session_lost` - the session was lost after a request that must not be made twice (`jobs.retry`) was sent:
      whether it was done is not known
  """

  defexception [:reason, :message]

  @type reason :: :unreachable | :timeout | :closed | :noproc | :session_lost
  @type t :: %__MODULE__{reason: reason, message: String.t() | nil}

  @impl true
  def message(%{message: nil, reason: reason}), do: text(reason)
  def message(%{message: message}), do: message

  defp text(:unreachable), do: "no broker answered"
  defp text(:timeout), do: "no answer in the time that the caller gave"
  defp text(:closed), do: "the client was stopped"
  defp text(:noproc), do: "there is no such client"
  defp text(:session_lost), do: "the session was lost after the request was sent"
  defp text(other), do: inspect(other)
end
