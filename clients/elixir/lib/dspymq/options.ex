defmodule Dspymq.Options do
  @moduledoc false

  # Options of a client and of a job, and how a call becomes a submit. A wrong option is a fault of the program that
  # gives it, and raises ArgumentError; inputs that cannot be sent are data, and give {:error, %Dspymq.Error{}}.

  alias Dspymq.{Address, Error, Id, Msgpack, Telemetry, Tool, Wire}

  @client [:name, :brokers, :client_name, :auth, :username, :password, :connect, :connect_timeout] ++
            [:backoff_max, :send_timeout, :deadline_slack, :handler, :hibernate_after, :spawn_opt, :debug]

  @job_fields [:profile, :revision, :lane, :priority, :fail_fast, :redeliver, :durable, :affinity, :trace]
  @job [:timeout, :kind, :instructions, :max_iters, :tools, :config, :on_disconnect, :window, :watch] ++
         [:job, :resume, :stream, :telemetry_metadata] ++ @job_fields

  @default_timeout 60_000
  @default_window 256
  @max_tools 64

  @doc "Of `start_link/1`: what the connection is started with, and the options of its GenServer."
  def client(opts) do
    known!(opts, @client, "start_link/1")
    server = Keyword.take(opts, [:name, :hibernate_after, :spawn_opt, :debug])

    unless opts[:connect] in [nil, :eager, :lazy] do
      raise ArgumentError, ":connect must be :eager or :lazy, not #{inspect(opts[:connect])}"
    end

    if (opts[:deadline_slack] || 0) > 20_000, do: raise(ArgumentError, ":deadline_slack is at most 20,000 ms")

    core = [
      addresses: Address.resolve(opts[:brokers]),
      name: client_name(opts[:client_name]),
      auth: text!(opts, :auth),
      eager: opts[:connect] != :lazy,
      connect_timeout_ms: ms!(opts, :connect_timeout),
      deadline_slack_ms: ms!(opts, :deadline_slack),
      idle_backoff_ms: ms!(opts, :backoff_max)
    ]

    link = [
      username: text!(opts, :username),
      # A function, so that no log of a state shows it.
      password: secret(text!(opts, :password)),
      send_timeout: ms!(opts, :send_timeout)
    ]

    {[core: core, link: link, client: opts[:name], handler: Telemetry.handler(opts[:handler])], server}
  end

  @doc "What opens a job: `{:ok, opened, meta}`, or an error if the inputs cannot be sent."
  def submit(program, inputs, opts) do
    known!(opts, @job, "a job")
    unless is_binary(program), do: raise(ArgumentError, "a program's name is text, not #{inspect(program)}")

    unless is_map(inputs) and not is_struct(inputs) do
      raise ArgumentError, "inputs are a map from names to values, not #{inspect(inputs, limit: 5)}"
    end

    tools = tools(opts[:tools] || [])
    id = opts[:job] || Id.new()
    inline = String.contains?(program, "->")
    timeout_ms = ms!(opts, :timeout) || @default_timeout

    fields =
      opts
      |> Keyword.take(@job_fields)
      |> Map.new()
      |> plain_trace()
      |> Map.merge(%{
        job: id,
        program: if(inline, do: "_inline", else: program),
        timeout_ms: timeout_ms,
        want: want(opts, tools),
        window: window(opts),
        on_disconnect: to_string(opts[:on_disconnect] || :cancel)
      })

    check!(:submit, fields)

    with {:ok, body} <- body(inputs, if(inline, do: spec(program, opts)), opts[:config], tools, id) do
      opened = %{
        type: :submit,
        fields: fields,
        body: body,
        timeout_ms: timeout_ms,
        resume: opts[:resume] || false
      }

      {:ok, opened, meta(program, tools, opts)}
    end
  end

  @doc "What joins a job whose inputs are not at hand."
  def attach(id, opts) do
    known!(opts, [:timeout, :stream, :window, :watch, :tools, :telemetry_metadata], "attach/3")
    tools = tools(opts[:tools] || [])
    fields = %{job: id, want: want(opts, tools), window: window(opts)}
    check!(:attach, fields)
    timeout_ms = ms!(opts, :timeout) || @default_timeout
    {:ok, %{type: :attach, fields: fields, body: "", timeout_ms: timeout_ms}, meta(nil, tools, opts)}
  end

  @doc "Raises ArgumentError for an option that there is not."
  def known!(opts, known, where) do
    unless Keyword.keyword?(opts),
      do: raise(ArgumentError, "options are a keyword list, not #{inspect(opts)}")

    case Keyword.keys(opts) -- known do
      [] ->
        :ok

      unknown ->
        raise ArgumentError,
              "#{where} has no options #{inspect(unknown)}; there are #{inspect(Enum.sort(known))}"
    end
  end

  @doc "Milliseconds above 0, or nil if the option is not there; else raises ArgumentError."
  def ms!(opts, name) do
    case opts[name] do
      nil -> nil
      ms when is_integer(ms) and ms > 0 -> ms
      other -> raise ArgumentError, "#{inspect(name)} must be milliseconds above 0, not #{inspect(other)}"
    end
  end

  defp text!(opts, name) do
    case opts[name] do
      text when is_nil(text) or (is_binary(text) and byte_size(text) < 256) -> text
      _ -> raise ArgumentError, "#{inspect(name)} must be text of at most 255 octets"
    end
  end

  defp secret(nil), do: nil
  defp secret(text), do: fn -> text end

  defp client_name(nil), do: "elixir"

  defp client_name(name) do
    if Wire.check(:hello, %{name: name}) != :ok do
      raise ArgumentError, ":client_name must be 1 to 64 printable ASCII characters, not #{inspect(name)}"
    end

    name
  end

  defp check!(type, fields) do
    with {:error, field} <- Wire.check(type, fields) do
      name = Map.get(%{timeout_ms: :timeout, want: :watch}, field, field)
      raise ArgumentError, "#{inspect(name)} cannot be #{inspect(fields[field], limit: 10)}"
    end
  end

  defp want(opts, tools) do
    watch = for word <- opts[:watch] || [], do: to_string(word)
    watch ++ if(opts[:stream], do: ["chunks"], else: []) ++ if(tools == %{}, do: [], else: ["tools"])
  end

  defp window(opts) do
    case {opts[:stream], Keyword.get(opts, :window, @default_window)} do
      {true, :infinity} -> nil
      {true, window} -> window
      _ -> nil
    end
  end

  defp plain_trace(%{trace: trace} = fields) when is_map(trace) or is_list(trace) do
    %{fields | trace: Map.new(trace, fn {key, value} -> {to_string(key), value} end)}
  end

  defp plain_trace(fields), do: fields

  defp spec(signature, opts) do
    for {key, value} when value != nil <- [
          {"signature", signature},
          {"kind", opts[:kind] && to_string(opts[:kind])},
          {"instructions", opts[:instructions]},
          {"max_iters", opts[:max_iters]}
        ],
        into: %{},
        do: {key, value}
  end

  defp body(inputs, spec, config, tools, id) do
    tools = for {_, tool} <- tools, do: Tool.spec(tool)
    config = if config, do: Map.new(config)

    parts =
      for {key, value} when value not in [nil, []] <- [{"spec", spec}, {"config", config}, {"tools", tools}],
          into: %{"inputs" => inputs},
          do: {key, value}

    with {:error, error} <- Msgpack.encode(parts) do
      text = "it cannot be sent: " <> Exception.message(error)
      {:error, %Error{code: :invalid_argument, reason: "invalid_body", message: text, job: id}}
    end
  end

  defp tools(list) when is_list(list) and length(list) <= @max_tools do
    Enum.reduce(list, %{}, fn
      %Tool{name: name} = tool, tools when not is_map_key(tools, name) -> Map.put(tools, name, tool)
      %Tool{name: name}, _ -> raise ArgumentError, "two tools are named #{name}"
      other, _ -> raise ArgumentError, "a tool is what Dspymq.Tool.new/3 gives, not #{inspect(other)}"
    end)
  end

  defp tools(_), do: raise(ArgumentError, ":tools is a list of at most #{@max_tools} tools")

  defp meta(program, tools, opts) do
    %{owner: self(), tools: tools, program: program, telemetry_metadata: opts[:telemetry_metadata] || %{}}
  end
end
