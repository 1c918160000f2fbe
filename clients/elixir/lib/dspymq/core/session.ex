defmodule Dspymq.Core.Session do
  @moduledoc false

  # hello and welcome, life, failover and backoff (SPEC.md, section 3).
  #
  # One pass tries the addresses in their order, each for a bounded time; between passes it waits, jittered: at most a
  # second while anything is open (R-3.30), up to `idle_backoff_ms` while nothing is. States: idle (nothing to look for),
  # greeting, live, waiting, closed.

  import Dspymq.Core.Out
  alias Dspymq.Core
  alias Dspymq.Core.Timers

  @backoff_min_ms 50
  @backoff_max_ms 1_000

  # How long one address may take to say welcome: the least in the first pass, doubled with each, so that a second
  # address is soon tried and a slow broker is not given up for ever.
  @greeting_min_ms 1_000
  @greeting_max_ms 5_000

  # A tick that comes so much late says that this VM stood still; then the silence of the peer proves nothing for a
  # while, since what it sent is still to be read (R-3.15).
  @stall_ms 500
  @second_look_ms 1_000

  # As before any welcome (SPEC.md, section 13).
  @limits %{max_header_bytes: 65_536, max_body_bytes: 16_777_216}

  defstruct state: :idle,
            addresses: [],
            index: 0,
            passes: 0,
            epoch: nil,
            limits: @limits,
            welcome: nil,
            hello: %{},
            last_failure: "",
            fruitful: false,
            refusals: [],
            heard_at: 0,
            sent_at: 0,
            judge_from: nil,
            idle_backoff_ms: 30_000

  @doc "There is work, or a session is wanted for its own sake: connect, unless that is under way."
  def want(%{session: %{state: :idle}} = c), do: start_pass(put_in(c.session.passes, 0))

  def want(%{session: %{state: :waiting}} = c) do
    # A long pause was meant for a client with nothing to do.
    if Timers.at(c.timers, :reconnect) > c.now + @backoff_max_ms do
      {pause_ms, c} = jitter(c, @backoff_min_ms)
      set_timer(put_in(c.session.passes, 0), :reconnect, c.now + pause_ms)
    else
      c
    end
  end

  def want(c), do: c

  @doc "A message came; a fruitful one shows that this broker does more than greet."
  def heard(c, fruitful) do
    session = c.session
    %{c | session: %{session | heard_at: c.now, fruitful: session.fruitful or fruitful}}
  end

  def welcomed(%{session: %{state: :live, welcome: %{session: name}}} = c, %{session: name}), do: c

  def welcomed(%{session: %{state: state} = session} = c, welcome) when state in [:greeting, :live] do
    restarted = session.epoch != nil and session.epoch != welcome.epoch

    session = %{
      session
      | state: :live,
        epoch: welcome.epoch,
        limits: welcome.limits,
        welcome: welcome,
        fruitful: false
    }

    c =
      %{c | session: session}
      |> cancel_timer(:greeting)
      |> set_timer(:life, c.now + min(welcome.ping_ms, welcome.dead_ms))
      |> emit({:session_up, address(session), welcome, restarted})

    c = if state == :live, do: Core.session_down(c), else: c
    Core.session_up(c, restarted)
  end

  def welcomed(c, _), do: c

  @doc """
  `no_session`: the broker does not know this session. Greet it again on this link (R-3.9).

  A storm of them, one for each message that was under way, costs one hello; a broker that greets and then still does
  not know the session is left, with backoff.
  """
  def unknown(%{session: %{state: :live, fruitful: false}} = c),
    do: lost(c, "the broker forgets its sessions")

  def unknown(%{session: %{state: :live} = session} = c) do
    c
    |> cancel_timer(:life)
    |> emit({:session_down, address(session), "no_session"})
    |> Core.session_down()
    |> greet()
  end

  def unknown(c), do: c

  @doc "An `error` that answers hello."
  def not_greeted(%{session: %{state: :greeting} = session} = c, error) do
    refusals = if error.retryable, do: session.refusals, else: session.refusals ++ [error]
    failure = "#{error.code}/#{error.reason}: #{error.message}"
    failed(%{c | session: %{session | refusals: refusals, last_failure: failure}})
  end

  def not_greeted(c, _), do: c

  @doc "The link or the session is gone."
  def lost(%{session: %{state: :greeting}} = c, reason), do: failed(put_in(c.session.last_failure, reason))

  def lost(%{session: %{state: :live} = session} = c, reason) do
    c =
      %{c | session: %{session | state: :waiting, last_failure: reason}}
      |> cancel_timer(:life)
      |> emit({:session_down, address(session), reason})
      |> emit({:disconnect, 0})
      |> Core.session_down()

    if session.fruitful, do: start_pass(put_in(c.session.passes, 0)), else: wait(c)
  end

  def lost(c, _), do: c

  @doc "Say bye, if there is anybody, and never connect again."
  def close(c, reason) do
    c =
      case c.session.state do
        :live -> c |> send(:bye, %{reason: reason}) |> emit({:disconnect, 500})
        :greeting -> emit(c, {:disconnect, 0})
        _ -> c
      end

    Enum.reduce([:life, :greeting, :reconnect], put_in(c.session.state, :closed), &cancel_timer(&2, &1))
  end

  def reconnect_due(%{session: %{state: :waiting}} = c), do: start_pass(c)
  def reconnect_due(c), do: c

  def greeting_due(%{session: %{state: :greeting}} = c) do
    failed(put_in(c.session.last_failure, "no welcome in time"))
  end

  def greeting_due(c), do: c

  @doc "Ping if nothing was sent for ping_ms; give the broker up if nothing came for dead_ms (R-3.12, R-3.14)."
  def life_due(%{session: %{state: :live, welcome: welcome}} = c, late_ms) do
    c = if late_ms > @stall_ms, do: put_in(c.session.judge_from, c.now + @second_look_ms), else: c
    dies_at = c.session.heard_at + welcome.dead_ms
    # Erlang's monotonic time may be negative: no number stands for "never".
    dies_at = if c.session.judge_from, do: max(dies_at, c.session.judge_from), else: dies_at

    if c.now >= dies_at do
      lost(c, "silent for #{c.now - c.session.heard_at} ms")
    else
      c = if c.now - c.session.sent_at >= welcome.ping_ms, do: send(c, :ping, %{}), else: c
      set_timer(c, :life, min(dies_at, c.session.sent_at + welcome.ping_ms))
    end
  end

  def life_due(c, _), do: c

  defp start_pass(c) do
    if Core.busy?(c) do
      connect(%{c | session: %{c.session | index: 0, refusals: []}})
    else
      put_in(c.session.state, :idle)
    end
  end

  defp connect(c), do: c |> emit({:connect, address(c.session)}) |> greet()

  defp greet(c) do
    patience_ms = grown(@greeting_min_ms, @greeting_max_ms, c.session.passes)

    put_in(c.session.state, :greeting)
    |> send(:hello, c.session.hello)
    |> set_timer(:greeting, c.now + patience_ms)
  end

  defp failed(%{session: session} = c) do
    c =
      c
      |> cancel_timer(:greeting)
      |> emit({:failed, address(session), session.last_failure})
      |> emit({:disconnect, 0})

    count = length(session.addresses)

    cond do
      session.index + 1 < count -> connect(put_in(c.session.index, session.index + 1))
      length(session.refusals) == count -> Core.refused(put_in(c.session.state, :idle), hd(session.refusals))
      true -> wait(c)
    end
  end

  defp wait(%{session: session} = c) do
    most_ms = if Core.open?(c), do: @backoff_max_ms, else: max(@backoff_max_ms, session.idle_backoff_ms)
    {pause_ms, c} = jitter(c, grown(@backoff_min_ms, most_ms, session.passes))
    c = %{c | session: %{c.session | state: :waiting, passes: session.passes + 1}}
    set_timer(c, :reconnect, c.now + pause_ms)
  end

  defp address(session), do: Enum.at(session.addresses, session.index)
end
