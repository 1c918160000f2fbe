defmodule Dspymq.Connection do
  @moduledoc false

  # The process behind a client: drives Dspymq.Core, and does as it says. It neither connects, reads nor writes itself
  # (Dspymq.Socket does), so that nothing blocks it.
  #
  # A caller gets `{:dspymq, ref, event}`, where ref is its monitor of this process and an alias: once it has
  # demonitored, what comes late is dropped (see Dspymq.Caller).

  use GenServer
  require Logger

  alias Dspymq.{ConnectionError, Core, Error, Owners, Socket, Telemetry, ToolRunner, Wire}

  # What the writer of a socket may have, in octets; more waits here, in order, and is dropped with the connection: what
  # matters of it is sent again.
  @send_window 4 * 1024 * 1024

  # What closing waits for, so that bye and the last acks leave.
  @linger_ms 500

  defstruct core: nil,
            link: nil,
            link_opts: [],
            outbox: :queue.new(),
            unwritten: 0,
            jobs: %{},
            owners: %{},
            asked: %{},
            subscribers: %{},
            tools: %ToolRunner{},
            tick: nil,
            client: nil,
            handler: nil,
            connected_before: false

  def start_link(opts, server_opts), do: GenServer.start_link(__MODULE__, opts, server_opts)

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)
    Telemetry.look()
    <<a::32, b::32, c::32>> = :crypto.strong_rand_bytes(12)
    core = Core.new([seed: {a, b, c}] ++ opts[:core])
    client = opts[:client] || self()
    state = %__MODULE__{core: core, link_opts: opts[:link], handler: opts[:handler], client: client}
    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    if state.core.config.eager, do: noreply(handle(state, :want)), else: {:noreply, state}
  end

  @impl true
  def handle_call(:status, _, state) do
    {session, address} = Core.status(state.core)
    {:reply, %{session: session, address: address, jobs: map_size(state.jobs)}, state}
  end

  @impl true
  def handle_cast({:open, ref, opened, meta}, state), do: noreply(open(state, ref, opened, meta))
  def handle_cast({:cancel, id}, state), do: noreply(handle(state, {:cancel, id}))
  def handle_cast({:read, id, attempt, seq}, state), do: noreply(handle(state, {:read, id, attempt, seq}))
  def handle_cast({:abandon, id, ref}, state), do: noreply(abandon(state, id, ref))

  def handle_cast({:ask, ref, asked}, state) do
    state = put_in(state.asked[asked.rid], ref)
    noreply(handle(state, {:ask, asked}))
  end

  def handle_cast({:ping, ref, rid, timeout_ms}, state) do
    noreply(handle(put_in(state.asked[rid], ref), {:ping, rid, timeout_ms}))
  end

  def handle_cast({:subscribe, ref, owner, key, kinds}, state) do
    state = own(put_in(state.subscribers[key], {ref, owner}), owner, {:subscription, key})
    noreply(handle(state, {:subscribe, key, kinds}))
  end

  def handle_cast({:unsubscribe, key}, state), do: noreply(unsubscribe(state, key))

  @impl true
  def handle_info({:dspymq_link, ref, what}, %{link: %{ref: ref}} = state), do: noreply(link(state, what))
  def handle_info({:dspymq_link, _, _}, state), do: {:noreply, state}

  def handle_info({:EXIT, pid, reason}, %{link: %{pid: pid}} = state) do
    noreply(link(state, {:down, "the socket's process ended: #{inspect(reason)}"}))
  end

  def handle_info({:EXIT, _, _}, state), do: {:noreply, state}

  def handle_info({:tick, at_ms}, state) do
    state = if state.tick && elem(state.tick, 1) == at_ms, do: %{state | tick: nil}, else: state
    noreply(handle(state, :tick))
  end

  def handle_info({:DOWN, monitor, :process, pid, _} = message, state) do
    case state.owners do
      %{^pid => {^monitor, owned}} ->
        noreply(owner_gone(%{state | owners: Map.delete(state.owners, pid)}, owned))

      _ ->
        tool_message(state, message)
    end
  end

  def handle_info(message, state), do: tool_message(state, message)

  @impl true
  def terminate(_, state) do
    link = state.link
    state = handle(state, :close)
    monitor = link && link.pid && Process.monitor(link.pid)

    if monitor do
      receive do
        {:DOWN, ^monitor, _, _, _} -> :ok
      after
        @linger_ms + 200 -> :ok
      end
    end

    Enum.each(Map.keys(state.tools.calls), &ToolRunner.stop(state.tools, &1))
  end

  # Callers.

  defp open(state, ref, opened, meta) do
    id = opened.fields.job

    if is_map_key(state.jobs, id) do
      text = "this client has a job of this id open"
      error = %Error{code: :already_exists, reason: "id_conflict", message: text, job: id}
      tell(ref, {:done, {:error, error}})
      state
    else
      job = %{
        ref: ref,
        owner: meta.owner,
        tools: meta.tools,
        keep: Map.get(opened.fields, :on_disconnect) == "keep",
        started: System.monotonic_time(),
        metadata: %{
          client: state.client,
          job: id,
          program: meta.program,
          telemetry_metadata: meta.telemetry_metadata
        }
      }

      emit(state, [:dspymq, :job, :start], system_time(), job.metadata)
      state = own(put_in(state.jobs[id], job), meta.owner, {:job, id})
      handle(state, {:open, opened})
    end
  end

  # Nobody reads what is still to come of it.
  defp abandon(state, id, ref) do
    case state.jobs do
      %{^id => %{ref: ^ref}} -> handle(state, {:cancel, id})
      _ -> state
    end
  end

  # Its caller has ended.
  defp let_go(state, id) do
    if state.jobs[id].keep do
      {job, jobs} = Map.pop(state.jobs, id)
      state = disown(%{state | jobs: jobs, tools: ToolRunner.stop(state.tools, id)}, job.owner, {:job, id})
      handle(state, {:release, id})
    else
      handle(state, {:cancel, id})
    end
  end

  defp owner_gone(state, owned) do
    Enum.reduce(owned, state, fn
      {:job, id}, state when is_map_key(state.jobs, id) -> let_go(state, id)
      {:subscription, key}, state -> unsubscribe(state, key)
      _, state -> state
    end)
  end

  defp unsubscribe(state, key) do
    case Map.pop(state.subscribers, key) do
      {nil, _} ->
        state

      {{_, owner}, subscribers} ->
        state = disown(%{state | subscribers: subscribers}, owner, {:subscription, key})
        handle(state, {:unsubscribe, key})
    end
  end

  defp own(state, pid, what), do: %{state | owners: Owners.add(state.owners, pid, what)}
  defp disown(state, pid, what), do: %{state | owners: Owners.remove(state.owners, pid, what)}

  defp tell(ref, event), do: send(ref, {:dspymq, ref, event})

  # The link.

  defp link(state, {:received, messages}) do
    # One of them may end the session: what came after it on that link is void.
    ref = state.link.ref

    Enum.reduce(messages, state, fn
      message, %{link: %{ref: ^ref}} = state -> handle(state, message)
      _, state -> state
    end)
  end

  defp link(state, {:up, writer}), do: flush(put_in(state.link.writer, writer))
  defp link(state, {:written, octets}), do: flush(%{state | unwritten: state.unwritten - octets})

  defp link(state, {:down, reason}) do
    # The socket's process ends by itself.
    handle(%{drop_link(state) | link: nil}, {:link_down, reason})
  end

  defp drop_link(state), do: %{state | outbox: :queue.new(), unwritten: 0}

  defp flush(%{link: %{writer: writer}} = state) when writer != nil do
    with true <- state.unwritten < @send_window,
         {{:value, {octets, size}}, outbox} <- :queue.out(state.outbox) do
      Socket.write(writer, octets, size)
      flush(%{state | outbox: outbox, unwritten: state.unwritten + size})
    else
      _ -> state
    end
  end

  defp flush(state), do: state

  # The core.

  defp handle(state, event) do
    {instructions, core} = Core.handle(state.core, event, now())
    Enum.reduce(instructions, %{state | core: core}, &perform(&2, &1))
  end

  defp perform(state, {:send, type, fields, body}) do
    octets = Dspymq.Zmtp.frames(Wire.encode(type, fields, body))
    flush(%{state | outbox: :queue.in({octets, IO.iodata_length(octets)}, state.outbox)})
  end

  defp perform(state, {:connect, address}) do
    state = perform(state, {:disconnect, 0})
    ref = make_ref()
    {:ok, pid} = Socket.start_link([owner: self(), ref: ref, address: address] ++ state.link_opts)
    %{state | link: %{ref: ref, pid: pid, writer: nil}}
  end

  defp perform(%{link: nil} = state, {:disconnect, _}), do: drop_link(state)

  defp perform(%{link: link} = state, {:disconnect, 0}) do
    # It may be connecting, and hear nothing until that is over.
    Process.unlink(link.pid)
    Process.exit(link.pid, :kill)
    drop_link(%{state | link: nil})
  end

  defp perform(%{link: link} = state, {:disconnect, linger_ms}) do
    # All that waits goes to the writer now, whatever the window.
    if link.writer,
      do: for({octets, size} <- :queue.to_list(state.outbox), do: Socket.write(link.writer, octets, size))

    Process.unlink(link.pid)
    Socket.close(link.pid, linger_ms)
    drop_link(%{state | link: nil})
  end

  defp perform(state, {:job_chunks, id, chunks}), do: job_event(state, id, {:chunks, chunks})
  defp perform(state, {:job_news, id, message}), do: job_event(state, id, {:news, message})

  defp perform(state, {:job_ended, id, result}) do
    {job, jobs} = Map.pop!(state.jobs, id)
    tell(job.ref, {:done, result})
    duration = %{duration: System.monotonic_time() - job.started}
    emit(state, [:dspymq, :job, :stop], duration, Map.merge(job.metadata, outcome(result)))
    disown(%{state | jobs: jobs, tools: ToolRunner.stop(state.tools, id)}, job.owner, {:job, id})
  end

  defp perform(state, {:tool_called, id, run, name, args, timeout_ms}) do
    emit(state, [:dspymq, :tool, :start], system_time(), %{client: state.client, job: id, name: name})
    {answers, tools} = ToolRunner.call(state.tools, id, run, name, args, timeout_ms, state.jobs[id])
    Enum.reduce(answers, %{state | tools: tools}, &handle(&2, &1))
  end

  defp perform(state, {:tools_void, id}), do: %{state | tools: ToolRunner.stop(state.tools, id)}

  defp perform(state, {:answered, rid, result}) do
    {ref, asked} = Map.pop!(state.asked, rid)
    tell(ref, {:done, result})
    %{state | asked: asked}
  end

  defp perform(state, {:subscribed, key}), do: subscription_event(state, key, :ready)
  defp perform(state, {:event, key, event}), do: subscription_event(state, key, {:event, event})

  defp perform(state, {:unsubscribed, key, error}) do
    state = subscription_event(state, key, {:done, {:error, error}})
    {entry, subscribers} = Map.pop(state.subscribers, key)
    state = %{state | subscribers: subscribers}
    if entry, do: disown(state, elem(entry, 1), {:subscription, key}), else: state
  end

  defp perform(state, {:session_up, address, welcome, restarted}) do
    metadata = %{
      address: address,
      epoch: welcome.epoch,
      reconnection: state.connected_before,
      restarted: restarted
    }

    emit(state, [:dspymq, :connection], system_time(), Map.put(metadata, :client, state.client))
    if state.connected_before, do: Logger.info("dspymq: connected to #{address} again")
    %{state | connected_before: true}
  end

  defp perform(state, {:session_down, address, reason}) do
    Logger.info("dspymq: disconnected from #{address}: #{reason}")
    metadata = %{client: state.client, address: address, reason: reason}
    emit(state, [:dspymq, :disconnection], system_time(), metadata)
    state
  end

  defp perform(state, {:failed, address, reason}) do
    Logger.debug("dspymq: cannot connect to #{address}: #{reason}")
    metadata = %{client: state.client, address: address, reason: reason}
    emit(state, [:dspymq, :failed_connection], system_time(), metadata)
    state
  end

  defp job_event(state, id, event) do
    tell(state.jobs[id].ref, event)
    state
  end

  defp subscription_event(state, key, event) do
    case state.subscribers do
      %{^key => {ref, _}} -> tell(ref, event)
      _ -> :ok
    end

    state
  end

  defp tool_message(state, message) do
    case ToolRunner.message(state.tools, message) do
      {answers, tools} -> noreply(Enum.reduce(answers, %{state | tools: tools}, &handle(&2, &1)))
      :other -> {:noreply, state}
    end
  end

  # Time: one timer, for the next thing that is due. One that comes early does no harm.

  defp noreply(state) do
    case {Core.wake_at(state.core), state.tick} do
      {nil, _} -> {:noreply, state}
      {at_ms, {_, set_ms}} when set_ms <= at_ms -> {:noreply, state}
      {at_ms, tick} -> {:noreply, set_tick(state, at_ms, tick)}
    end
  end

  defp set_tick(state, at_ms, tick) do
    if tick, do: Process.cancel_timer(elem(tick, 0))
    %{state | tick: {Process.send_after(self(), {:tick, at_ms}, at_ms, abs: true), at_ms}}
  end

  defp now, do: System.monotonic_time(:millisecond)
  defp system_time, do: %{system_time: System.system_time()}

  defp emit(state, event, measurements, metadata),
    do: Telemetry.emit(state.handler, event, measurements, metadata)

  defp outcome({:ok, prediction}) do
    %{
      code: :ok,
      reason: nil,
      attempt: prediction.attempt,
      usage: prediction.usage,
      timings: prediction.timings
    }
  end

  defp outcome({:error, %Error{} = error}) do
    %{code: error.code, reason: error.reason, attempt: error.attempt, usage: error.usage, timings: nil}
  end

  defp outcome({:error, %ConnectionError{reason: reason}}) do
    %{code: :unavailable, reason: Atom.to_string(reason), attempt: 0, usage: nil, timings: nil}
  end
end
