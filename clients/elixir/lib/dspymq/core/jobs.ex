defmodule Dspymq.Core.Jobs do
  @moduledoc false

  # The open jobs: submit, resubmit, refusals, streams, results, deadlines, cancel.
  #
  # A job is open from `open` to its one end. Whatever happens to connections and brokers in between, it is sent again
  # with the same id and octets, its deadline stands, and it ends exactly once (SPEC.md, sections 5, 7 and 8).

  import Dspymq.Core.Out
  alias Dspymq.{Core, Error, Prediction, Wire}
  alias Dspymq.Core.{Acks, Ledger, Text}

  # How long a cancelled job may take to say its end, before it ends here.
  @cancel_wait_ms 10_000

  # The wait before a refused job is sent again, when the refusal names none: the least, doubled each time.
  @retry_min_ms 100
  @retry_max_ms 5_000

  # last_epoch: under which it was last sent; other_epoch: the last but that, since a worker may hold the job for that
  # broker whether or not this one has got it (R-8.3); before: both, before the last send.
  defstruct [
    :id,
    :type,
    :fields,
    :body,
    :deadline,
    :order,
    :last_epoch,
    :other_epoch,
    :before,
    :text,
    :ledger,
    sent: false,
    reached: false,
    waits_retry: false,
    cancelling: false,
    overdue: false,
    refusals: 0
  ]

  @doc "Take a job over; it is sent as soon as there is a session."
  def open(c, %{type: type, fields: fields} = opened) do
    want = Map.get(fields, :want, [])
    last_epoch = if opened[:resume], do: "unknown"

    job = %__MODULE__{
      id: fields.job,
      type: type,
      fields: fields,
      body: opened.body,
      deadline: c.now + opened.timeout_ms,
      order: c.next_order,
      last_epoch: last_epoch,
      before: {last_epoch, nil},
      text: if("chunks" in want, do: Text.new(fields[:window])),
      ledger: if("tools" in want, do: %Ledger{})
    }

    # Its result is wanted once more: the broker must not forget it yet.
    c = if type == :attach or opened[:resume], do: Acks.withdraw(c, job.id), else: c
    c = %{c | next_order: c.next_order + 1, released: MapSet.delete(c.released, job.id)}
    c = c |> put(job) |> set_timer({:job, job.id}, reach_by(c, job.deadline))
    if live?(c), do: send_job(c, job), else: c
  end

  @doc "Stop a job. One that no broker can know ends here and now."
  def cancel(c, id) do
    case c.jobs do
      %{^id => %{cancelling: false} = job} -> cancel_job(c, %{job | cancelling: true})
      _ -> c
    end
  end

  defp cancel_job(c, job) do
    cond do
      job.sent ->
        c |> send(:cancel, %{job: job.id}) |> cancel_wait(job)

      job.last_epoch == nil and job.type == :submit ->
        end_job(c, job, cancelled(job, "cancelled before it was sent"))

      true ->
        cancel_wait(c, job)
    end
  end

  defp cancel_wait(c, %{overdue: true} = job), do: put(c, job)

  defp cancel_wait(c, job) do
    job = %{job | deadline: min(job.deadline, c.now + @cancel_wait_ms)}
    c |> put(job) |> set_timer({:job, job.id}, job.deadline)
  end

  @doc "Nobody here waits for it any more, and it is to go on: it is neither cancelled nor acknowledged."
  def release(c, id) do
    case c.jobs do
      %{^id => job} -> %{forget(c, job) | released: MapSet.put(c.released, id)}
      _ -> c
    end
  end

  @doc "The reader of a stream took a chunk; credit follows when half of the window is used."
  def read(c, id, attempt, seq) do
    case c.jobs do
      %{^id => %{text: %{} = text} = job} ->
        {upto, text} = Text.read(text, attempt, seq)
        c = put(c, %{job | text: text})
        if upto && job.sent, do: send(c, :credit, %{job: id, attempt: attempt, upto: upto}), else: c

      _ ->
        c
    end
  end

  @doc "Send every open job, in the order in which they were opened; those that were refused wait out their time."
  def session_up(c) do
    c.jobs
    |> Map.values()
    |> Enum.reject(& &1.waits_retry)
    |> Enum.sort_by(& &1.order)
    |> Enum.reduce(c, &send_job(&2, &1))
  end

  @doc "Whatever was sent has to be sent again."
  def session_down(c) do
    jobs = Map.new(c.jobs, fn {id, job} -> {id, %{job | sent: false}} end)
    %{c | jobs: jobs, released: MapSet.new()}
  end

  @doc "News of a job that its caller wanted: accepted, started, progress."
  def news(c, %{job: id} = message) do
    case c.jobs do
      %{^id => job} -> c |> restart_text(job, message.attempt) |> emit({:job_news, job.id, message})
      _ -> c
    end
  end

  defp restart_text(c, %{text: nil}, _), do: c

  defp restart_text(c, job, attempt) do
    {chunks, text} = Text.restart(job.text, attempt)
    c |> put(%{job | text: text}) |> show(job, chunks)
  end

  @doc "A piece of a stream; dropped when nobody reads it."
  def chunk(c, %{job: id} = message, body) do
    case c.jobs do
      %{^id => %{text: %{}} = job} ->
        fields =
          case Wire.part(body, "fields") do
            {:ok, fields} -> fields
            {:error, _} -> %{}
          end

        {chunks, text} = Text.take(job.text, message, fields)
        c |> put(%{job | text: text}) |> show(job, chunks)

      _ ->
        c
    end
  end

  @doc "The end of a job. Acknowledged also if it is not open here: then nobody here wants it (R-4.5)."
  def result(c, %{job: id} = message, body) do
    if MapSet.member?(c.released, id) do
      %{c | released: MapSet.delete(c.released, id)}
    else
      c = Acks.note(c, id)

      case c.jobs do
        %{^id => job} -> finish(c, job, message, body)
        _ -> c
      end
    end
  end

  defp finish(c, job, %{code: "OK"} = message, body) do
    case Wire.part(body, "outputs") do
      {:ok, outputs} ->
        {chunks, text} = if job.text, do: Text.finish(job.text, message, outputs), else: {[], nil}
        job = %{job | text: text}
        prediction = struct(Prediction, Map.put(message, :outputs, outputs))
        c |> show(job, chunks) |> end_job(job, {:ok, prediction})

      {:error, problem} ->
        end_job(c, job, error(job, :internal, "invalid_body", "the result cannot be read: #{problem}"))
    end
  end

  defp finish(c, job, message, _), do: end_job(c, job, {:error, Error.from_message(message)})

  @doc "`error` named this job: send it again later if that may help within its deadline, else it ends."
  def refused(c, %{job: id} = error) do
    case c.jobs do
      %{^id => job} -> refused(c, job, error)
      _ -> c
    end
  end

  defp refused(c, %{cancelling: true, type: :submit} = job, %{retryable: true}) do
    end_job(c, job, cancelled(job, "cancelled while it waited to be sent again"))
  end

  defp refused(c, job, error) do
    {wait_ms, c} = retry_wait(c, job, error)

    if not error.retryable or error.reason == "no_worker" or c.now + wait_ms >= job.deadline do
      end_job(c, job, {:error, Error.from_message(error)})
    else
      # Refused means that nothing was made: what an earlier broker knows of the job is what counts again.
      {last, other} = job.before
      job = %{job | last_epoch: last, other_epoch: other, sent: false, waits_retry: true}

      c
      |> put(%{job | refusals: job.refusals + 1})
      |> set_timer({:retry, job.id}, c.now + wait_ms)
    end
  end

  defp retry_wait(c, job, %{retry_after_ms: nil}),
    do: jitter(c, grown(@retry_min_ms, @retry_max_ms, job.refusals))

  # Those that were refused together are spread out, never earlier than asked for.
  defp retry_wait(c, _, %{retry_after_ms: after_ms}) do
    {number, c} = random(c)
    {max(1, trunc(after_ms * (1 + 0.25 * number))), c}
  end

  def fail(c, id, make_error) do
    case c.jobs do
      %{^id => job} -> end_job(c, job, {:error, make_error.(id)})
      _ -> c
    end
  end

  def fail_all(c, make_error) do
    c.jobs |> Map.values() |> Enum.sort_by(& &1.order) |> Enum.reduce(c, &fail(&2, &1.id, make_error))
  end

  @doc "The wait after a refusal is over."
  def retry_due(c, id) do
    case c.jobs do
      %{^id => job} ->
        c = put(c, %{job | waits_retry: false})
        if live?(c), do: send_job(c, c.jobs[id]), else: c

      _ ->
        c
    end
  end

  @doc "A job's time to reach a broker, its deadline, or the slack after that, has come."
  def due(c, id) do
    case c.jobs do
      %{^id => job} -> job_due(c, job)
      _ -> c
    end
  end

  defp job_due(c, job) do
    cond do
      c.now < job.deadline and (job.reached or live?(c)) -> set_timer(c, {:job, job.id}, job.deadline)
      c.now < job.deadline -> end_job(c, job, {:error, unreachable(c)})
      # The broker's own answer is worth waiting for a little: it carries the usage (R-7.11).
      job.sent and not job.overdue -> overdue(c, job)
      true -> give_up(c, job)
    end
  end

  defp overdue(c, job) do
    c |> put(%{job | overdue: true}) |> set_timer({:job, job.id}, c.now + c.config.deadline_slack_ms)
  end

  defp give_up(c, %{reached: false, cancelling: false} = job), do: end_job(c, job, {:error, unreachable(c)})

  defp give_up(c, %{cancelling: true} = job) do
    end_job(c, job, cancelled(job, "cancelled; the broker did not confirm it"))
  end

  defp give_up(c, job) do
    c = if job.sent and job.type == :submit, do: send(c, :cancel, %{job: job.id}), else: c
    where = if job.sent, do: "the broker did not answer", else: "no session: #{c.session.last_failure}"
    {:error, error} = error(job, :deadline_exceeded, "deadline", "no result in time (#{where})")
    end_job(c, job, {:error, %{error | retryable: true}})
  end

  defp send_job(c, job) do
    limits = c.session.limits
    header_bytes = header_bytes(job)

    cond do
      byte_size(job.body) > limits.max_body_bytes ->
        text = "the inputs take #{byte_size(job.body)} octets, the limit is #{limits.max_body_bytes}"
        end_job(c, job, error(job, :resource_exhausted, "body_too_large", text))

      header_bytes > limits.max_header_bytes ->
        text =
          "the header takes #{header_bytes} octets, the limit is #{limits.max_header_bytes}; shorten :trace"

        end_job(c, job, error(job, :resource_exhausted, "header_too_large", text))

      true ->
        do_send(c, job)
    end
  end

  defp do_send(c, job) do
    epoch = c.session.epoch
    anew = job.last_epoch != epoch
    other = if anew, do: job.last_epoch, else: job.other_epoch
    fields = resend_fields(c, job, other || job.last_epoch)

    again = %{
      job
      | before: {job.last_epoch, job.other_epoch},
        other_epoch: other,
        last_epoch: epoch,
        text: if(job.text && job.reached, do: Text.rejoin(job.text, anew), else: job.text),
        ledger: if(job.ledger && job.reached, do: Ledger.rejoin(job.ledger, anew), else: job.ledger),
        sent: true,
        reached: true
    }

    c = c |> put(again) |> send(job.type, fields, job.body)
    if job.cancelling, do: send(c, :cancel, %{job: job.id}), else: c
  end

  # Only :trace has no bound of its own; the rest, and a known_epoch, take less than so many octets.
  @plain_header_bytes 4_096

  defp header_bytes(%{fields: %{trace: %{} = trace}}) do
    Enum.reduce(trace, @plain_header_bytes, fn {key, value}, sum ->
      sum + byte_size(key) + byte_size(value) + 10
    end)
  end

  defp header_bytes(_), do: 0

  defp resend_fields(_, %{type: :attach, fields: fields}, _), do: fields

  defp resend_fields(c, %{fields: fields, deadline: deadline}, known_epoch) do
    Map.merge(fields, %{timeout_ms: max(1, deadline - c.now), known_epoch: known_epoch})
  end

  defp reach_by(c, deadline) do
    case c.config.connect_timeout_ms do
      ms when is_integer(ms) -> if live?(c), do: deadline, else: min(deadline, c.now + ms)
      nil -> deadline
    end
  end

  defp show(c, _, []), do: c
  defp show(c, job, chunks), do: emit(c, {:job_chunks, job.id, chunks})

  defp end_job(c, job, result), do: c |> forget(job) |> emit({:job_ended, job.id, result})

  defp forget(c, job) do
    c = cancel_timer(%{c | jobs: Map.delete(c.jobs, job.id)}, {:job, job.id})
    if job.waits_retry, do: cancel_timer(c, {:retry, job.id}), else: c
  end

  @doc false
  def put(%Core{} = c, job), do: %{c | jobs: Map.put(c.jobs, job.id, job)}

  defp cancelled(job, text), do: error(job, :cancelled, "cancelled", text)

  defp error(job, code, reason, text) do
    {:error, %Error{code: code, reason: reason, message: text, job: job.id}}
  end
end
