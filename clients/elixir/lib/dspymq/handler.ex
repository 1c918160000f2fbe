defmodule Dspymq.Handler do
  @moduledoc """
  A module that hears what a client tells of itself, for applications without `:telemetry`: see `Dspymq.Telemetry`.

      defmodule MyApp.Handler do
        @behaviour Dspymq.Handler

        @impl true
        def handle_event([:dspymq, :job, :stop], %{duration: duration}, %{program: program, code: code}, _config) do
          MyApp.Metrics.observe(program, code, System.convert_time_unit(duration, :native, :millisecond))
        end

        def handle_event(_event, _measurements, _metadata, _config), do: :ok
      end
  """

  @doc "An event happened. Runs in the client's process; what it returns is ignored."
  @callback handle_event(event :: [atom], measurements :: map, metadata :: map, config :: term) :: term
end
