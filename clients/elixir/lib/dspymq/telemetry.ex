defmodule Dspymq.Telemetry do
  @moduledoc """
  What a client tells of itself.

  Where the application has `:telemetry`, these are telemetry events. A client can also be given a module that
  implements the behaviour `Dspymq.Handler`, with or without that library: `Dspymq.start_link(handler: MyApp.Handler)`,
  or `handler: {MyApp.Handler, config}`.

  | event | measurements | metadata |
  |---|---|---|
  | `[:dspymq, :connection]` | `system_time` | `client`, `address`, `epoch`, `reconnection`, `restarted` |
  | `[:dspymq, :disconnection]` | `system_time` | `client`, `address`, `reason` |
  | `[:dspymq, :failed_connection]` | `system_time` | `client`, `address`, `reason` |
  | `[:dspymq, :job, :start]` | `system_time` | `client`, `job`, `program`, `telemetry_metadata` |
  | `[:dspymq, :job, :stop]` | `duration` | the same, `code`, `reason`, `attempt`, `usage`, `timings` |
  | `[:dspymq, :tool, :start]` | `system_time` | `client`, `job`, `name` |

  Times are in native units, as telemetry has them. `code` is `:ok` or that of the `Dspymq.Error`; for a
  `Dspymq.ConnectionError` it is `:unavailable`. `client` is the name that the client was started under, or its pid.
  `telemetry_metadata` is what the call was given under that name. There are no inputs, outputs or texts in any event.

  Handlers run in the client's own process: they must be quick. One that raises is logged, and the client goes on.
  """

  require Logger

  @compile {:no_warn_undefined, :telemetry}
  @key {__MODULE__, :loaded}

  @doc false
  # Asking for a module that is not there is slow: it is done once a client, and kept.
  def look do
    loaded = Code.ensure_loaded?(:telemetry)
    if :persistent_term.get(@key, nil) != loaded, do: :persistent_term.put(@key, loaded)
    :ok
  end

  @doc false
  def handler(nil), do: nil
  def handler({module, config}) when is_atom(module), do: {module, config}
  def handler(module) when is_atom(module), do: {module, nil}

  def handler(other),
    do: raise(ArgumentError, ":handler must be a module or {module, config}, not #{inspect(other)}")

  @doc false
  def emit(handler, event, measurements, metadata) do
    if :persistent_term.get(@key, false), do: :telemetry.execute(event, measurements, metadata)

    case handler do
      nil -> :ok
      {module, config} -> guarded(module, [event, measurements, metadata, config])
    end
  end

  defp guarded(module, arguments) do
    apply(module, :handle_event, arguments)
    :ok
  rescue
    error ->
      Logger.error("dspymq: #{inspect(module)} failed: " <> Exception.format(:error, error, __STACKTRACE__))
  catch
    kind, value -> Logger.error("dspymq: #{inspect(module)} failed: #{inspect({kind, value})}")
  end
end
