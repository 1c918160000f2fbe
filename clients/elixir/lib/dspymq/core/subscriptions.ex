defmodule Dspymq.Core.Subscriptions do
  @moduledoc false

  # Subscriptions to the broker's events (SPEC.md, section 10.4). One lives in a session; here it is made anew in each,
  # and the first event after that says with `gap` that some may have been missed. `key` is this client's own name of a
  # subscription, `sub` the broker's.

  import Dspymq.Core.Out
  alias Dspymq.{Error, Event, Msgpack, Wire}

  @prefix "sub-"

  defstruct [:kinds, :sub, next_seq: 0, ready: false, gap: false]

  def open(c, key, kinds) do
    c = put_in(c.subscriptions[key], %__MODULE__{kinds: kinds})
    if live?(c), do: ask(c, key), else: c
  end

  def close(c, key) do
    {entry, subscriptions} = Map.pop(c.subscriptions, key)
    c = %{c | subscriptions: subscriptions}

    if entry != nil and entry.sub != nil and live?(c) do
      body = Msgpack.encode!(%{"params" => %{"sub" => entry.sub}})
      send(c, :request, %{rid: "un" <> @prefix <> key, method: "events.unsubscribe"}, body)
    else
      c
    end
  end

  def session_up(c), do: c.subscriptions |> Map.keys() |> Enum.reduce(c, &ask(&2, &1))

  def session_down(c) do
    subscriptions =
      Map.new(c.subscriptions, fn {key, entry} -> {key, %{entry | sub: nil, gap: entry.ready}} end)

    %{c | subscriptions: subscriptions}
  end

  @doc "`{:ok, c}` if this was the answer to one of ours, else `:other`."
  def reply(c, %{rid: @prefix <> key}, body) when is_map_key(c.subscriptions, key) do
    case body do
      {:ok, %{"result" => %{"sub" => sub}}} when is_binary(sub) ->
        entry = c.subscriptions[key]
        c = put_in(c.subscriptions[key], %{entry | sub: sub, next_seq: 0, ready: true})
        {:ok, if(entry.ready, do: c, else: emit(c, {:subscribed, key}))}

      _ ->
        {:ok, fail(c, key, %Error{code: :internal, message: "bad reply to events.subscribe"})}
    end
  end

  def reply(_, _, _), do: :other

  @doc "`{:ok, c}` if this `error` named one of ours, else `:other`."
  def refused(c, %{rid: @prefix <> key} = error) when is_map_key(c.subscriptions, key) do
    {:ok, fail(c, key, Error.from_message(error))}
  end

  def refused(_, _), do: :other

  @doc "An event; those of a subscription that was closed here meanwhile are dropped."
  def event(c, message, body) do
    case Enum.find(c.subscriptions, fn {_, entry} -> entry.sub == message.sub end) do
      {key, entry} ->
        {details, torn} =
          case Wire.part(body, "event") do
            {:ok, details} -> {details, false}
            {:error, _} -> {%{}, true}
          end

        gap = entry.gap or torn or message.seq != entry.next_seq
        event = %Event{kind: message.kind, at_ms: message.at_ms, details: details, gap: gap}
        c = put_in(c.subscriptions[key], %{entry | gap: false, next_seq: message.seq + 1})
        emit(c, {:event, key, event})

      nil ->
        c
    end
  end

  def fail_all(c, error), do: c.subscriptions |> Map.keys() |> Enum.reduce(c, &fail(&2, &1, error))

  defp fail(c, key, error) do
    emit(%{c | subscriptions: Map.delete(c.subscriptions, key)}, {:unsubscribed, key, error})
  end

  defp ask(c, key) do
    body = Msgpack.encode!(%{"params" => %{"kinds" => c.subscriptions[key].kinds}})
    send(c, :request, %{rid: @prefix <> key, method: "events.subscribe"}, body)
  end
end
