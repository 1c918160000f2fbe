defmodule Dspymq.Test.Ticket do
  @moduledoc "A struct with a form on the wire."
  defstruct [:subject, :secret]

  defimpl Dspymq.Encodable do
    def to_plain(ticket), do: %{subject: ticket.subject}
  end
end
