defmodule Dspymq.Job do
  @moduledoc """
  A job that was submitted by this process: see `Dspymq.submit/4`.

  What happens to it comes to the process that submitted it, as messages `{:dspymq, ref, event}` where `ref` is the
  job's. `Dspymq.await/2` and `Dspymq.stream/4` take them in; a GenServer or a LiveView takes them in `handle_info/2`:

      def handle_info({:dspymq, ref, event}, %{assigns: %{job: %{ref: ref} = job}} = socket) do
        case event do
          {:chunks, chunks} ->
            Dspymq.read(job, List.last(chunks))
            {:noreply, update(socket, :text, &Enum.reduce(chunks, &1, fn c, text -> Dspymq.Chunk.collect(c, text) end))}

          {:news, message} ->
            {:noreply, assign(socket, :state, message.t)}

          {:done, result} ->
            {:noreply, assign(socket, :result, result)}
        end
      end

  The events:

    * `{:chunks, [chunk]}` - text, with `stream: true`; say `Dspymq.read/2` when it was used, or the job stops at its
      window
    * `{:news, map}` - with `watch: [...]`: `%{t: :accepted, state: ..., missing: ...}`, `%{t: :started, worker: ...}` or
      `%{t: :progress, done: ..., total: ..., note: ...}`
    * `{:done, {:ok, prediction} | {:error, error}}` - the end; nothing comes after it

  The job has a monitor on the client: if that process ends first, `{:DOWN, ref, :process, _, _}` comes instead.
  """

  @enforce_keys [:id, :ref, :client, :owner]
  defstruct [:id, :ref, :client, :owner, :program, :give_up_ms]

  @type t :: %__MODULE__{
          id: String.t(),
          ref: reference,
          client: pid | {atom, node},
          owner: pid,
          program: String.t() | nil,
          give_up_ms: integer | nil
        }
end
