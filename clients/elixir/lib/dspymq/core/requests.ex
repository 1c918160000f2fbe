defmodule Dspymq.Core.Requests do
  @moduledoc false

  # The open requests and pings (SPEC.md, section 10). A request is sent again after a lost session, except one whose
  # repetition would do something twice (R-10.3). Its wait is bounded by its own timeout.

  import Dspymq.Core.Out
  alias Dspymq.{ConnectionError, Error}

  defstruct [:rid, :method, :body, :n, :deadline, once: false, sent: false, was_sent: false]

  @doc "Take a request over. `once`: it makes something new each time that it is sent."
  def ask(c, %{rid: rid, method: method, body: body, timeout_ms: timeout_ms} = asked) do
    add(c, %__MODULE__{
      rid: rid,
      method: method,
      body: body,
      deadline: c.now + timeout_ms,
      once: Map.get(asked, :once, false)
    })
  end

  @doc "Take a ping over; its numbers begin at 1, those of an idle session are 0."
  def ping(c, rid, timeout_ms) do
    c = %{c | next_ping: c.next_ping + 1}
    add(c, %__MODULE__{rid: rid, n: c.next_ping, deadline: c.now + timeout_ms})
  end

  def session_up(c) do
    c.requests |> Map.values() |> Enum.reject(& &1.sent) |> Enum.reduce(c, &send_one(&2, &1))
  end

  def session_down(c) do
    Enum.reduce(c.requests, c, fn
      {_, %{was_sent: true, once: true} = entry}, c ->
        text = "the session was lost; whether #{entry.method} was done is not known"
        finish(c, entry, {:error, %ConnectionError{reason: :session_lost, message: text}})

      {rid, entry}, c ->
        put_in(c.requests[rid], %{entry | sent: false})
    end)
  end

  def reply(c, %{rid: rid}, body) do
    case {c.requests, body} do
      {%{^rid => entry}, {:ok, body}} ->
        finish(c, entry, {:ok, body["result"]})

      {%{^rid => entry}, {:error, problem}} ->
        error = %Error{
          code: :internal,
          reason: "invalid_body",
          message: "the reply cannot be read: #{problem}"
        }

        finish(c, entry, {:error, error})

      _ ->
        c
    end
  end

  def pong(c, %{n: n}) do
    case Enum.find(c.requests, fn {_, entry} -> entry.n == n end) do
      {_, entry} -> finish(c, entry, {:ok, nil})
      nil -> c
    end
  end

  def fail(c, rid, error) do
    case c.requests do
      %{^rid => entry} -> finish(c, entry, {:error, error})
      _ -> c
    end
  end

  def fail_all(c, error), do: c.requests |> Map.keys() |> Enum.reduce(c, &fail(&2, &1, error))

  @doc "The time to reach a broker, or the timeout, has come."
  def due(c, rid) do
    case c.requests do
      %{^rid => %{was_sent: false} = entry} ->
        if live?(c) and c.now < entry.deadline,
          do: set_timer(c, {:request, rid}, entry.deadline),
          else: late(c, entry)

      %{^rid => %{deadline: deadline}} when c.now < deadline ->
        set_timer(c, {:request, rid}, deadline)

      %{^rid => entry} ->
        late(c, entry)

      _ ->
        c
    end
  end

  defp late(c, %{was_sent: false} = entry), do: finish(c, entry, {:error, unreachable(c)})

  defp late(c, entry) do
    text = "#{entry.method || "ping"} was not answered in time"
    finish(c, entry, {:error, %ConnectionError{reason: :timeout, message: text}})
  end

  defp add(c, entry) do
    c = put_in(c.requests[entry.rid], entry)

    due_at =
      case c.config.connect_timeout_ms do
        ms when is_integer(ms) -> if live?(c), do: entry.deadline, else: min(entry.deadline, c.now + ms)
        nil -> entry.deadline
      end

    c = set_timer(c, {:request, entry.rid}, due_at)
    if live?(c), do: send_one(c, entry), else: c
  end

  defp send_one(c, entry) do
    c = put_in(c.requests[entry.rid], %{entry | sent: true, was_sent: true})

    if entry.method do
      send(c, :request, %{rid: entry.rid, method: entry.method}, entry.body)
    else
      send(c, :ping, %{n: entry.n})
    end
  end

  defp finish(c, entry, result) do
    %{c | requests: Map.delete(c.requests, entry.rid)}
    |> cancel_timer({:request, entry.rid})
    |> emit({:answered, entry.rid, result})
  end
end
