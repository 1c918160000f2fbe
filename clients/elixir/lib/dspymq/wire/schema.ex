defmodule Dspymq.Wire.Schema do
  @moduledoc false

  # The header fields of every message of the clients' endpoint: SPEC.md, sections 4.3 to 4.5. Each is
  # {name, type, default}; :required has none, nil stands for "none".

  @safe 9_007_199_254_740_991
  @want ~w(accepted started progress chunks tools)

  @usage [{:calls, :count, 0}, {:models, {:map, :model}, %{}}]
  @model [{:input_tokens, :count, 0}, {:output_tokens, :count, 0}, {:cost, {:float, 0, 1.0e12}, nil}]
  @timings [{:queued_ms, :count, nil}, {:run_ms, :count, nil}, {:lm_ms, :count, nil}]
  @limits [
    {:max_header_bytes, :positive, 65_536},
    {:max_body_bytes, :positive, 16_777_216},
    {:max_timeout_ms, :positive, 2_592_000_000},
    {:max_jobs, :positive, 500_000},
    {:max_jobs_per_flow, :positive, 250_000},
    {:max_queued_bytes, :positive, 1_073_741_824}
  ]

  @messages %{
    hello: [
      {:name, :client_name, :required},
      {:lang, {:str, 64}, ""},
      {:features, {:list, :name, nil}, []},
      {:auth, :text, nil}
    ],
    welcome: [
      {:epoch, :id, :required},
      {:session, :id, :required},
      {:features, {:list, :name, nil}, []},
      {:ping_ms, :positive, :required},
      {:dead_ms, :positive, :required},
      {:adopt_ms, :count, :required},
      {:orphan_ms, :count, :required},
      {:retain_ms, :count, :required},
      {:limits, :limits, :required}
    ],
    ping: [{:n, :count, 0}],
    pong: [{:n, :count, 0}],
    submit: [
      {:job, :id, :required},
      {:program, :name, :required},
      {:timeout_ms, :positive, :required},
      {:revision, :name, nil},
      {:profile, :name, nil},
      {:lane, :name, "default"},
      {:priority, {:int, 0, 9}, 4},
      {:want, {:list, {:one_of, @want}, nil}, []},
      {:window, :positive, nil},
      {:on_disconnect, {:one_of, ~w(cancel keep)}, "cancel"},
      {:fail_fast, :bool, false},
      {:redeliver, :bool, true},
      {:durable, :bool, false},
      {:affinity, :id, nil},
      {:known_epoch, :id, nil},
      {:trace, {:map, :str}, nil}
    ],
    result: [
      {:job, :id, :required},
      {:attempt, :count, :required},
      {:code, :name, :required},
      {:reason, :name, nil},
      {:message, :text, nil},
      {:retryable, :bool, false},
      {:retry_after_ms, :count, nil},
      {:details, {:map, :any}, nil},
      {:chunks, :count, 0},
      {:usage, :usage, nil},
      {:timings, :timings, nil},
      {:revision, :name, nil}
    ],
    error: [
      {:code, :name, :required},
      {:reason, :name, :required},
      {:message, :text, ""},
      {:retryable, :bool, false},
      {:retry_after_ms, :count, nil},
      {:rid, :str, nil},
      {:job, :str, nil},
      {:lease, :str, nil},
      {:details, {:map, :any}, nil}
    ],
    bye: [{:reason, :text, ""}],
    ack: [{:jobs, {:list, :id, 1000}, :required}],
    accepted: [
      {:job, :id, :required},
      {:state, {:one_of, ~w(queued dispatched running cancelling done)}, :required},
      {:attempt, :count, :required},
      {:duplicate, :bool, false},
      {:waiting, :bool, false},
      {:missing, {:list, :str, nil}, []}
    ],
    started: [
      {:job, :id, :required},
      {:attempt, :count, :required},
      {:revision, :name, :required},
      {:worker, :text, :required}
    ],
    chunk: [
      {:job, :id, :required},
      {:attempt, :count, :required},
      {:seq, :count, :required},
      {:reset, :bool, false}
    ],
    progress: [
      {:job, :id, :required},
      {:attempt, :count, :required},
      {:done, :count, nil},
      {:total, :count, nil},
      {:note, :text, nil}
    ],
    credit: [{:job, :id, :required}, {:attempt, :count, :required}, {:upto, :count, :required}],
    cancel: [{:job, :id, :required}],
    attach: [
      {:job, :id, :required},
      {:want, {:list, {:one_of, @want}, nil}, []},
      {:window, :positive, nil}
    ],
    tool_call: [
      {:job, :id, :required},
      {:attempt, :count, :required},
      {:call, :count, :required},
      {:name, :name, :required},
      {:timeout_ms, :count, :required}
    ],
    tool_result: [
      {:job, :id, :required},
      {:attempt, :count, :required},
      {:call, :count, :required},
      {:code, :name, :required},
      {:message, :text, nil}
    ],
    request: [{:rid, :id, :required}, {:method, :name, :required}],
    reply: [{:rid, :id, :required}],
    event: [
      {:sub, :id, :required},
      {:seq, :count, :required},
      {:kind, :name, :required},
      {:at_ms, :count, :required}
    ]
  }

  @keyed Map.new(@messages, fn {type, fields} ->
           {Atom.to_string(type),
            {type, for({name, kind, default} <- fields, do: {name, to_string(name), kind, default})}}
         end)

  @structures Map.new([usage: @usage, model: @model, timings: @timings, limits: @limits], fn {name, fields} ->
                {name, for({field, kind, default} <- fields, do: {field, to_string(field), kind, default})}
              end)

  @doc "The type of this name and its fields, {name, key, type, default}; nil if there is none."
  def message(name), do: Map.get(@keyed, name)

  @doc "The value of a header's key in this type: {:ok, value} or :error."
  def read(value, type)
  def read(value, :id) when is_binary(value), do: if(id?(value), do: {:ok, value}, else: :error)
  def read(value, :name), do: text(value, 1, 128)
  def read(value, :text), do: text(value, 0, 4096)
  def read(value, :str) when is_binary(value), do: {:ok, value}
  def read(value, {:str, most}), do: text(value, 0, most)
  def read(value, :client_name), do: read(value, :id)
  def read(value, :count) when is_integer(value) and value >= 0 and value <= @safe, do: {:ok, value}
  def read(value, :positive) when is_integer(value) and value > 0 and value <= @safe, do: {:ok, value}
  def read(value, {:int, least, most}) when is_integer(value) and value in least..most, do: {:ok, value}

  def read(value, {:float, least, most}) when is_number(value) and value >= least and value <= most,
    do: {:ok, value}

  def read(value, :bool) when is_boolean(value), do: {:ok, value}
  def read(value, {:one_of, words}), do: if(value in words, do: {:ok, value}, else: :error)
  def read(value, :any), do: {:ok, value}

  def read(value, {:list, type, most}) when is_list(value) and (most == nil or length(value) <= most) do
    read_list(value, type, [])
  end

  def read(value, {:map, type}) when is_map(value) do
    Enum.reduce_while(value, {:ok, %{}}, fn {key, inner}, {:ok, map} ->
      case read(inner, type) do
        {:ok, inner} -> {:cont, {:ok, Map.put(map, key, inner)}}
        :error -> {:halt, :error}
      end
    end)
  end

  def read(value, structure) when is_map(value) and is_map_key(@structures, structure) do
    Enum.reduce_while(@structures[structure], {:ok, %{}}, fn {name, key, type, default}, {:ok, map} ->
      case field(value, key, type, default) do
        {:ok, inner} -> {:cont, {:ok, Map.put(map, name, inner)}}
        :error -> {:halt, :error}
      end
    end)
  end

  def read(_, _), do: :error

  @doc "One field of a map with text keys, or its default: {:ok, value} or :error."
  def field(map, key, type, default) do
    case map do
      %{^key => nil} when default == nil -> {:ok, nil}
      %{^key => value} -> read(value, type)
      _ when default == :required -> :error
      _ -> {:ok, default}
    end
  end

  @doc "Whether this is an id: 1 to 64 printable ASCII characters (R-2.12)."
  def id?(value), do: byte_size(value) in 1..64 and printable?(value)

  defp printable?(<<octet, rest::binary>>) when octet in 0x20..0x7E, do: printable?(rest)
  defp printable?(<<>>), do: true
  defp printable?(_), do: false

  defp read_list([value | rest], type, read) do
    case read(value, type) do
      {:ok, value} -> read_list(rest, type, [value | read])
      :error -> :error
    end
  end

  defp read_list([], _, read), do: {:ok, :lists.reverse(read)}

  # Octets are never fewer than characters, so that short texts need no counting.
  defp text(value, least, most) when is_binary(value) do
    size = byte_size(value)

    cond do
      size < least -> :error
      size <= most -> {:ok, value}
      size > 4 * most -> :error
      characters(value) <= most -> {:ok, value}
      true -> :error
    end
  end

  defp text(_, _, _), do: :error

  # Code points, as other languages count, not graphemes.
  defp characters(value), do: for(<<_::utf8 <- value>>, reduce: 0, do: (count -> count + 1))
end
