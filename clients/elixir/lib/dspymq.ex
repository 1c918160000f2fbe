defmodule Dspymq do
  @moduledoc """
  Calls DSPy programs that run in pools of Python processes, behind a broker that speaks DJP/1.

      children = [
        {Dspymq, name: MyApp.Dspymq, brokers: "tcp://127.0.0.1:5570"}
      ]

      {:ok, prediction} = Dspymq.call(MyApp.Dspymq, "qa", %{question: "Why is the sky blue?"})
      prediction["answer"]

  A client is one process with one connection, shared by as many callers as there are. It connects in the background,
  and starts also when no broker is there. When a connection breaks it makes another, with jitter, to the first of its
  brokers that answers, and sends its open jobs again by their ids: a job that already runs goes on, and its caller
  notices nothing.

  A *program* is the name of what a worker offers, or a DSPy signature in text, which needs no such name:

      Dspymq.call(client, "text -> name, age: int", %{text: "Ada, 36, is delighted."})

  Inputs are a map; outputs come back with text as keys. Bytes are wrapped in `Dspymq.Bin`.

  ## Ends

  Every call has one: `{:ok, %Dspymq.Prediction{}}`, `{:error, %Dspymq.Error{}}` if the broker or the worker said no, or
  `{:error, %Dspymq.ConnectionError{}}` if none of them could be asked. The functions with a `!` return the prediction
  or raise the error.

  When a process ends, its open jobs are cancelled, unless they were submitted with `on_disconnect: :keep`.

  ## Options of a job

    * `:timeout` - milliseconds that the job may take in all, its wait for a slot included. Default: 60,000. The call
      returns by then, or a few seconds later with what the worker had used.
    * `:profile` - a language model profile of the workers; `:revision` - exactly this revision of the program
    * `:lane` - the kind of slot, `"default"` if not given; `:priority` - 0 to 9, among this client's jobs; 9 first
    * `:config` - parameters of the model calls, such as `[temperature: 0.2]`
    * `:kind`, `:instructions`, `:max_iters` - of a signature in text: `"predict"`, `"chain_of_thought"` or `"react"`
    * `:tools` - a list of `Dspymq.Tool`
    * `:fail_fast` - an error at once when no worker can run it now, instead of waiting
    * `:redeliver` - false for programs with side effects: never run again after it may have started
    * `:on_disconnect` - `:cancel`, or `:keep` the job going when its caller or this client goes away
    * `:affinity` - jobs of one key prefer the same worker
    * `:trace` - W3C trace context, a map of texts
    * `:watch` - what to hear of besides: some of `:accepted`, `:started`, `:progress`
    * `:job` - its id; `:resume` - true if an earlier process may have submitted this id already
    * `:window` - chunks of its stream that may be under way unread, 256 if not given, or `:infinity`
    * `:telemetry_metadata` - a map for the events of this job (`Dspymq.Telemetry`)
  """

  alias Dspymq.{Caller, Connection, ConnectionError, Error, Id, Job, Msgpack, Options, Prediction}
  alias Dspymq.{Streams, Subscription}

  @type client :: GenServer.server()
  @type inputs :: %{optional(String.t() | atom) => term}
  @type error :: Error.t() | ConnectionError.t()
  @type result :: {:ok, Prediction.t()} | {:error, error}

  @request_timeout 10_000
  @request_bytes 1_048_576

  @doc """
  Starts a client, linked to the calling process.

  Options:

    * `:name` - an atom, `{:global, term}` or `{:via, module, term}`
    * `:brokers` - one address or several, in their order: `"tcp://10.0.0.1:5570,tcp://10.0.0.2:5570"` or a list. If not
      given, those of the environment variable `DSPYMQ_BROKER`, else `"tcp://127.0.0.1:5570"`
    * `:client_name` - who this is, for the broker's logs and for its share of the slots: all clients of one name share
      one. Default: `"elixir"`
    * `:connect` - `:eager` (at start, and again after each loss) or `:lazy` (with the first call). Default: `:eager`
    * `:connect_timeout` - milliseconds that a call waits for a broker that never answered; as long as its own `:timeout`
      if not given
    * `:backoff_max` - the longest pause between attempts to connect while no call waits; default 30,000. While one
      waits, it is a second
    * `:deadline_slack` - how long after its deadline a call waits for the broker's own answer, which says what was used;
      default 7,000
    * `:send_timeout` - how long a send may take before the connection is given up; default 15,000
    * `:username`, `:password` - for a broker that asks for PLAIN
    * `:auth` - a token; reserved, brokers of this version do not look at it
    * `:handler` - a `Dspymq.Handler`: a module or `{module, config}`
    * `:hibernate_after`, `:spawn_opt`, `:debug` - of the GenServer
  """
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts \\ []) do
    {connection, server} = Options.client(opts)
    Connection.start_link(connection, server)
  end

  @doc "For a supervisor; see `start_link/1`. The id is the name, if there is one."
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts) do
    %{id: opts[:name] || __MODULE__, start: {__MODULE__, :start_link, [opts]}, type: :worker}
  end

  @doc "Stops a client: says goodbye to the broker, which cancels what is open; open calls fail with `:closed`."
  @spec close(client, timeout) :: :ok
  def close(client, timeout \\ 5_000), do: GenServer.stop(client, :normal, timeout)

  @doc """
  Runs a program and waits for its outputs.

      {:ok, prediction} = Dspymq.call(client, "qa", %{question: "2+2?"}, timeout: 30_000)
  """
  @spec call(client, String.t(), inputs, keyword) :: result
  def call(client, program, inputs, opts \\ []) do
    with {:ok, job} <- submit(client, program, inputs, opts) do
      result = await(job)
      if match?({:error, %ConnectionError{reason: :timeout}}, result), do: abandon(job)
      result
    end
  end

  @doc "As `call/4`; raises the error."
  @spec call!(client, String.t(), inputs, keyword) :: Prediction.t()
  def call!(client, program, inputs, opts \\ []), do: bang(call(client, program, inputs, opts))

  @doc """
  Submits a job and returns at once; `await/2` waits for its end.

  With `stream: true` its text comes as messages while it is written: see `Dspymq.Job`.

      {:ok, job} = Dspymq.submit(client, "qa", %{question: "2+2?"})
      {:ok, prediction} = Dspymq.await(job)
  """
  @spec submit(client, String.t(), inputs, keyword) :: {:ok, Job.t()} | {:error, error}
  def submit(client, program, inputs, opts \\ []) do
    with {:ok, opened, meta} <- Options.submit(program, inputs, opts), do: Caller.open(client, {opened, meta})
  end

  @doc """
  Joins a job by its id: one that another client has submitted, or this one in an earlier life.

  The client that had it hears no more of it. Options: `:timeout`, `:stream`, `:window`, `:watch`, `:tools`.
  """
  @spec attach(client, String.t(), keyword) :: {:ok, Job.t()} | {:error, error}
  def attach(client, id, opts \\ []) do
    {:ok, opened, meta} = Options.attach(id, opts)
    Caller.open(client, {opened, meta})
  end

  @doc """
  Waits for the end of a job that this process has submitted.

  After `timeout` milliseconds it returns `{:error, %Dspymq.ConnectionError{reason: :timeout}}`; the job goes on, and can
  be awaited again, or given up by `abandon/1`.
  """
  @spec await(Job.t(), timeout) :: result
  def await(%Job{} = job, timeout \\ :infinity) do
    with :timeout <- Caller.await(job, timeout), do: {:error, %ConnectionError{reason: :timeout}}
  end

  @doc "As `await/2`; raises the error."
  @spec await!(Job.t(), timeout) :: Prediction.t()
  def await!(job, timeout \\ :infinity), do: bang(await(job, timeout))

  @doc "Cancels a job. It ends as its result says, soon: that is still to be awaited. Without effect on one that is done."
  @spec cancel(Job.t()) :: :ok
  def cancel(%Job{} = job), do: GenServer.cast(job.client, {:cancel, job.id})

  @doc "Cancels a job that nobody will await: what comes of it later is dropped."
  @spec abandon(Job.t()) :: :ok
  def abandon(%Job{} = job), do: Caller.abandon(job)

  @doc "Says that a chunk was used, so that more may come: for those who take in the messages of a job themselves."
  @spec read(Job.t(), Dspymq.Chunk.t()) :: :ok
  def read(%Job{} = job, %Dspymq.Chunk{} = chunk), do: Caller.read(job, chunk)

  @doc """
  The text of a program as a language model writes it: a lazy stream of `{:chunk, %Dspymq.Chunk{}}`, with
  `{:ok, prediction}` or `{:error, error}` as its last element.

  The job is submitted when the stream is first asked for an element. No more than `:window` chunks are ever under way;
  the worker waits for a slow consumer, and loses no text. Who stops early cancels the job. With `:watch`, `{:news, map}`
  comes in between (`Dspymq.Job`).

      client
      |> Dspymq.stream("qa", %{question: "Why is the sky blue?"})
      |> Enum.each(fn
        {:chunk, chunk} -> IO.write(chunk.text)
        {:ok, prediction} -> IO.puts(["\\n", inspect(prediction.usage)])
        {:error, error} -> IO.puts(Exception.message(error))
      end)
  """
  @spec stream(client, String.t(), inputs, keyword) :: Enumerable.t()
  def stream(client, program, inputs, opts \\ []) do
    Streams.job(fn -> submit(client, program, inputs, Keyword.put(opts, :stream, true)) end)
  end

  @doc "As `stream/4`, but the elements are the chunks alone, and an error is raised."
  @spec stream!(client, String.t(), inputs, keyword) :: Enumerable.t()
  def stream!(client, program, inputs, opts \\ []) do
    client
    |> stream(program, inputs, opts)
    |> Stream.flat_map(fn
      {:chunk, chunk} -> [chunk]
      {:error, error} -> raise error
      _ -> []
    end)
  end

  @doc """
  Runs a program on many inputs: a lazy stream of results, in the order of the inputs.

  `:concurrency` (8) jobs are open at once; it takes the other options of a job. Inputs are taken as there is room, and
  who stops early cancels what is open. A slow source of inputs holds back results that are already there.

      ["one", "two", "three"]
      |> Stream.map(&%{text: &1})
      |> then(&Dspymq.map(client, "text -> language", &1, concurrency: 16))
      |> Enum.to_list()
      #=> [{:ok, %Dspymq.Prediction{}}, ...]
  """
  @spec map(client, String.t(), Enumerable.t(), keyword) :: Enumerable.t()
  def map(client, program, inputs, opts \\ []) do
    {concurrency, opts} = Keyword.pop(opts, :concurrency, 8)

    unless is_integer(concurrency) and concurrency > 0 do
      raise ArgumentError, ":concurrency must be above 0, not #{inspect(concurrency)}"
    end

    Streams.map(inputs, concurrency, &submit(client, program, &1, opts))
  end

  @doc """
  Asks the broker something: a method of SPEC.md, section 10.2, under its own name. `Dspymq.Broker` has them as
  functions.

      {:ok, %{"programs" => programs}} = Dspymq.request(client, "programs.list")

  Options: `:timeout` in milliseconds, #{@request_timeout} if not given.
  """
  @spec request(client, String.t(), map, keyword) :: {:ok, term} | {:error, error}
  def request(client, method, params \\ %{}, opts \\ []) do
    Options.known!(opts, [:timeout], "request/4")
    timeout_ms = Options.ms!(opts, :timeout) || @request_timeout

    with {:ok, body} <- params_body(params) do
      once = method == "jobs.retry" and not (is_map_key(params, :new_job) or is_map_key(params, "new_job"))
      asked = %{rid: Id.new(), method: method, body: body, timeout_ms: timeout_ms, once: once}
      with {:ok, ref, _} <- Caller.cast(client, &{:ask, &1, asked}), do: Caller.answer(ref, timeout_ms)
    end
  end

  @doc "As `request/4`; raises the error."
  @spec request!(client, String.t(), map, keyword) :: term
  def request!(client, method, params \\ %{}, opts \\ []), do: bang(request(client, method, params, opts))

  @doc "Whether a broker answers within `timeout` milliseconds."
  @spec ping(client, pos_integer) :: :ok | {:error, error}
  def ping(client, timeout \\ @request_timeout) do
    with {:ok, ref, _} <- Caller.cast(client, &{:ping, &1, Id.new(), timeout}),
         {:ok, _} <- Caller.answer(ref, timeout),
         do: :ok
  end

  @doc """
  Where the client stands: `%{session: :live, address: "tcp://...", jobs: 3}`. `session` is `:idle`, `:greeting`,
  `:live` or `:waiting` (for its next attempt to connect).
  """
  @spec status(client) :: %{session: atom, address: String.t(), jobs: non_neg_integer}
  def status(client), do: GenServer.call(client, :status)

  @doc """
  Hears of what happens at the broker.

  `kinds` are kinds of events, or groups of them by the word before the dot (`["job.done", "worker"]`); none: all. Once
  the broker has taken it, the calling process gets `{:dspymq, ref, {:event, %Dspymq.Event{}}}`, with the subscription's
  `ref`, until `unsubscribe/1` or its own end. The client subscribes again after a lost session; the first event after
  that has `gap`. If it breaks for good, `{:dspymq, ref, {:done, {:error, error}}}` comes.
  """
  @spec subscribe(client, [String.t()], keyword) :: {:ok, Subscription.t()} | {:error, error}
  def subscribe(client, kinds \\ [], opts \\ []) do
    Options.known!(opts, [:timeout], "subscribe/3")
    key = Id.new()

    with {:ok, ref, pid} <- Caller.cast(client, &{:subscribe, &1, self(), key, kinds}) do
      subscription = %Subscription{ref: ref, key: key, client: pid}

      receive do
        {:dspymq, ^ref, :ready} -> {:ok, subscription}
        {:dspymq, ^ref, {:done, {:error, error}}} -> {:error, error}
        {:DOWN, ^ref, :process, _, reason} -> {:error, Caller.gone(reason)}
      after
        Options.ms!(opts, :timeout) || @request_timeout ->
          unsubscribe(subscription)
          {:error, %ConnectionError{reason: :timeout}}
      end
    end
  end

  @doc "Ends a subscription; what still comes of it is dropped."
  @spec unsubscribe(Subscription.t()) :: :ok
  def unsubscribe(%Subscription{} = subscription) do
    GenServer.cast(subscription.client, {:unsubscribe, subscription.key})
    Caller.forget(subscription.ref)
    Caller.flush(subscription.ref)
  end

  @doc """
  What happens at the broker, as an endless stream of `Dspymq.Event`: see `subscribe/3`. Raises when it breaks for good.

      client |> Dspymq.events(["job.done"]) |> Enum.take(10)
  """
  @spec events(client, [String.t()]) :: Enumerable.t()
  def events(client, kinds \\ []), do: Streams.events(fn -> subscribe(client, kinds) end, &unsubscribe/1)

  defp params_body(params) when params == %{}, do: {:ok, ""}

  defp params_body(params) do
    case Msgpack.encode(%{"params" => params}) do
      {:ok, body} when byte_size(body) > @request_bytes ->
        text = "the parameters take #{byte_size(body)} octets, the limit is #{@request_bytes}"
        {:error, %Error{code: :resource_exhausted, reason: "body_too_large", message: text}}

      {:ok, body} ->
        {:ok, body}

      {:error, error} ->
        text = "it cannot be sent: " <> Exception.message(error)
        {:error, %Error{code: :invalid_argument, reason: "invalid_params", message: text}}
    end
  end

  defp bang({:ok, value}), do: value
  defp bang({:error, error}), do: raise(error)
end
