defmodule Dspymq.Core do
  @moduledoc """
  The client as a state machine: an event goes in, instructions come out. No socket, no clock, no process; time and
  chance come in as arguments.

  `Dspymq.Connection` drives it. Every race is a list of events, which is how the tests play them.

  Events of `handle/3`:

    * `{:open, %{type: :submit | :attach, fields: map, body: binary, timeout_ms: ms, resume: boolean}}`
    * `{:cancel, job}`, `{:release, job}`, `{:read, job, attempt, seq}`, `{:tool_answered, job, run, answer}`
    * `{:ask, %{rid: rid, method: method, body: binary, timeout_ms: ms, once: boolean}}`, `{:ping, rid, timeout_ms}`
    * `{:subscribe, key, kinds}`, `{:unsubscribe, key}`
    * `:want` (a session), `:close`, `:tick`
    * `{:received, message, body}`, where the body is `{:ok, map}` or `{:error, text}`; `{:garbled, problem}`;
      `{:link_down, reason}`

  Instructions:

    * `{:connect, address}`, `{:disconnect, linger_ms}`, `{:send, type, fields, body}`
    * `{:job_news, job, message}`, `{:job_chunks, job, chunks}`, `{:job_ended, job, result}`
    * `{:tool_called, job, run, name, args, timeout_ms}`, `{:tools_void, job}`
    * `{:answered, rid, result}`, `{:subscribed, key}`, `{:event, key, event}`, `{:unsubscribed, key, error}`
    * `{:session_up, address, welcome, restarted}`, `{:session_down, address, reason}`, `{:failed, address, reason}`
  """

  alias Dspymq.{ConnectionError, Error}
  alias Dspymq.Core.{Acks, Jobs, Out, Requests, Session, Subscriptions, Timers, Tools}

  defstruct config: %{},
            now: 0,
            out: [],
            random: nil,
            timers: %Timers{},
            session: %Session{},
            jobs: %{},
            next_order: 0,
            released: MapSet.new(),
            acks: [],
            ack_count: 0,
            requests: %{},
            next_ping: 0,
            subscriptions: %{},
            closed: false

  @opaque t :: %__MODULE__{}
  @type event :: tuple | atom
  @type instruction :: tuple

  @doc """
  A client that knows no broker yet.

    * `:addresses` - of the brokers, in their order
    * `:name` - for logs, and its share of the slots
    * `:auth` - a token, or nil
    * `:eager` - keep a session also when nothing is open
    * `:connect_timeout_ms` - how long a job that was never sent waits for a broker; nil: as long as its own timeout
    * `:deadline_slack_ms` - how long after its deadline the broker's own answer is waited for
    * `:idle_backoff_ms` - the longest pause between attempts to connect while nothing is open
    * `:seed` - of the jitter: three integers
  """
  @spec new(keyword) :: t
  def new(opts) do
    hello = %{name: opts[:name] || "elixir", lang: "elixir", features: ["ack"], auth: opts[:auth]}

    %__MODULE__{
      config: %{
        connect_timeout_ms: opts[:connect_timeout_ms],
        deadline_slack_ms: opts[:deadline_slack_ms] || 7_000,
        eager: opts[:eager] || false
      },
      random: :rand.seed_s(:exsss, opts[:seed] || {1, 2, 3}),
      session: %Session{
        addresses: Keyword.fetch!(opts, :addresses),
        hello: hello,
        idle_backoff_ms: opts[:idle_backoff_ms] || 30_000
      }
    }
  end

  @doc "Takes one event in, at this time in milliseconds: what must be done, in its order."
  @spec handle(t, event, integer) :: {[instruction], t}
  def handle(%__MODULE__{} = c, event, now_ms) do
    c = event(%{c | now: now_ms}, event)
    {:lists.reverse(c.out), %{c | out: []}}
  end

  @doc "When the next `:tick` is due; nil when nothing waits for time."
  @spec wake_at(t) :: integer | nil
  def wake_at(%__MODULE__{timers: timers}), do: Timers.next(timers)

  @doc "Where the session stands: `{state, address}`."
  @spec status(t) :: {atom, String.t()}
  def status(%__MODULE__{session: session}), do: {session.state, Enum.at(session.addresses, session.index)}

  # What happened here.

  defp event(%{closed: true} = c, {:open, %{fields: %{job: id}}}),
    do: Out.emit(c, {:job_ended, id, {:error, closed()}})

  defp event(%{closed: true} = c, {:ask, %{rid: rid}}), do: Out.emit(c, {:answered, rid, {:error, closed()}})
  defp event(%{closed: true} = c, {:ping, rid, _}), do: Out.emit(c, {:answered, rid, {:error, closed()}})
  defp event(%{closed: true} = c, {:subscribe, key, _}), do: Out.emit(c, {:unsubscribed, key, closed()})
  defp event(%{closed: true} = c, :close), do: c
  defp event(%{closed: true} = c, :want), do: c

  defp event(c, {:open, opened}), do: c |> Jobs.open(opened) |> Session.want()
  defp event(c, {:cancel, id}), do: Jobs.cancel(c, id)
  defp event(c, {:release, id}), do: Jobs.release(c, id)
  defp event(c, {:read, id, attempt, seq}), do: Jobs.read(c, id, attempt, seq)
  defp event(c, {:tool_answered, id, run, answer}), do: Tools.answered(c, id, run, answer)
  defp event(c, {:ask, asked}), do: c |> Requests.ask(asked) |> Session.want()
  defp event(c, {:ping, rid, timeout_ms}), do: c |> Requests.ping(rid, timeout_ms) |> Session.want()
  defp event(c, {:subscribe, key, kinds}), do: c |> Subscriptions.open(key, kinds) |> Session.want()
  defp event(c, {:unsubscribe, key}), do: Subscriptions.close(c, key)
  defp event(c, :want), do: Session.want(c)

  defp event(c, :close) do
    c = %{c | closed: true} |> Acks.flush() |> Session.close("closed by its user")
    fail_all(c, fn _ -> closed() end, closed())
  end

  defp event(c, {:link_down, reason}), do: Session.lost(c, reason)

  defp event(c, {:received, message, body}) do
    fruitful = message.t not in [:welcome, :error, :bye, :ping]
    c |> Session.heard(fruitful) |> message(message, body)
  end

  defp event(c, {:garbled, problem}) do
    c = Session.heard(c, false)
    text = "the broker sent a message that cannot be read: #{problem.message}"
    error = %Error{code: :internal, reason: problem.reason, message: text}

    cond do
      problem.reason == "unknown_type" -> c
      problem.job -> Jobs.fail(c, problem.job, &%{error | job: &1})
      problem.rid -> Requests.fail(c, problem.rid, error)
      true -> c
    end
  end

  defp event(c, :tick) do
    late_ms = max(0, c.now - (Timers.next(c.timers) || c.now))
    tick(c, late_ms)
  end

  defp tick(c, late_ms) do
    case Timers.pop(c.timers, c.now) do
      {key, timers} -> %{c | timers: timers} |> due(key, late_ms) |> tick(late_ms)
      nil -> c
    end
  end

  defp due(c, {:job, id}, _), do: Jobs.due(c, id)
  defp due(c, {:retry, id}, _), do: Jobs.retry_due(c, id)
  defp due(c, {:request, rid}, _), do: Requests.due(c, rid)
  defp due(c, :acks, _), do: Acks.flush(c)
  defp due(c, :life, late_ms), do: Session.life_due(c, late_ms)
  defp due(c, :greeting, _), do: Session.greeting_due(c)
  defp due(c, :reconnect, _), do: Session.reconnect_due(c)

  # What the broker sent.

  defp message(c, %{t: :result} = message, body), do: Jobs.result(c, message, body)
  defp message(c, %{t: :chunk} = message, body), do: Jobs.chunk(c, message, body)
  defp message(c, %{t: :tool_call} = message, body), do: Tools.called(c, message, body)
  defp message(c, %{t: :event} = message, body), do: Subscriptions.event(c, message, body)
  defp message(c, %{t: :pong} = message, _), do: Requests.pong(c, message)
  defp message(c, %{t: :ping, n: n}, _), do: Out.send(c, :pong, %{n: n})
  defp message(c, %{t: :welcome} = message, _), do: Session.welcomed(c, message)
  defp message(c, %{t: :bye, reason: reason}, _), do: Session.lost(c, "bye: #{reason}")
  defp message(c, %{t: t} = message, _) when t in [:accepted, :started, :progress], do: Jobs.news(c, message)

  defp message(c, %{t: :reply} = message, body) do
    case Subscriptions.reply(c, message, body) do
      {:ok, c} -> c
      :other -> Requests.reply(c, message, body)
    end
  end

  defp message(c, %{t: :error, reason: "no_session"}, _), do: Session.unknown(c)
  defp message(c, %{t: :error, job: job} = message, _) when job != nil, do: Jobs.refused(c, message)

  defp message(c, %{t: :error, rid: rid} = message, _) when rid != nil do
    case Subscriptions.refused(c, message) do
      {:ok, c} -> c
      :other -> Requests.fail(c, rid, Error.from_message(message))
    end
  end

  defp message(c, %{t: :error} = message, _), do: Session.not_greeted(c, message)
  defp message(c, _, _), do: c

  # What the session tells.

  @doc false
  def session_up(c, restarted) do
    c = if restarted, do: Acks.forget(c), else: c
    c |> Jobs.session_up() |> Requests.session_up() |> Subscriptions.session_up() |> Acks.flush()
  end

  @doc false
  def session_down(c), do: c |> Jobs.session_down() |> Requests.session_down() |> Subscriptions.session_down()

  @doc false
  def refused(c, message) do
    error = Error.from_message(message)
    fail_all(c, &%{error | job: &1}, error)
  end

  @doc false
  def busy?(c), do: c.config.eager or open?(c)

  @doc false
  def open?(c), do: map_size(c.jobs) + map_size(c.requests) + map_size(c.subscriptions) > 0

  defp fail_all(c, make_error, error) do
    c |> Jobs.fail_all(make_error) |> Requests.fail_all(error) |> Subscriptions.fail_all(error)
  end

  defp closed, do: %ConnectionError{reason: :closed}
end
