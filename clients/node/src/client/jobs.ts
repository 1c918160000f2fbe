/**
 * The open jobs of a client: submit, resubmit, refusals, streams, results, deadlines, cancel, acks. Pure.
 *
 * A job is open from `open` to its one end. Whatever happens to connections and brokers in between, it is sent again
 * with the same id and octets, its deadline stands, and it ends exactly once (SPEC.md sections 5, 7 and 8).
 */
import {
  BrokerUnreachable,
  Cancelled,
  DeadlineExceeded,
  type DspymqError,
  errorFrom,
  Internal,
  ResourceExhausted,
} from "../errors.js";
import { bodyPart, type PlainMap } from "../protocol/body.js";
import { NO_BODY } from "../protocol/codec.js";
import type {
  Accepted,
  Attach,
  ChunkMessage,
  ErrorMessage,
  Progress,
  Result,
  Started,
  Submit,
  ToolCall,
} from "../protocol/messages.js";
import { Problem } from "../protocol/problem.js";
import type { Timers } from "../timers.js";
import type { Answer, Chunk, Emit, OpenJob, Outcome } from "./events.js";
import { Prediction } from "./prediction.js";
import type { Session } from "./session.js";
import { TextStream } from "./text-stream.js";
import { ToolLedger } from "./tool-ledger.js";

/** Results are acknowledged together: so many at once, or so long after the first. */
const ACK_BATCH = 256;
const ACK_DELAY_MS = 20;
/** How long a cancelled job may take to say its end, before it ends here. */
const CANCEL_WAIT_MS = 10_000;
/** Wait before a refused job is sent again, when the refusal names none: the minimum, doubled each time. */
const RETRY_MIN_MS = 100;
const RETRY_MAX_MS = 5_000;

const NO_TOOLS: Answer = { code: "NOT_FOUND", message: "this client offers no tools for this job", body: NO_BODY };
const CANCELLING: Answer = { code: "CANCELLED", message: "the job is being cancelled", body: NO_BODY };

/** One open job; changed only by its JobBook. */
class Job {
  readonly id: string;
  readonly message: Submit | Attach;
  readonly body: Uint8Array;
  readonly headerBytes: number;
  readonly stream: TextStream | undefined;
  readonly tools: ToolLedger | undefined;
  deadlineMs: number;
  /** The epoch under which it was last sent. */
  lastEpoch: string | undefined;
  /** The last one but that: a worker may hold the job for that broker, whether or not this one has got it. */
  otherEpoch: string | undefined;
  /** Both, as they were before it was sent last. */
  before: readonly [string | undefined, string | undefined];
  /** Sent in the present session, and not refused. */
  sent = false;
  /** Ever sent to a broker. */
  reached = false;
  waitsRetry = false;
  cancelling = false;
  overdue = false;
  refusals = 0;

  constructor(opened: OpenJob, nowMs: number) {
    this.id = opened.message.job;
    this.message = opened.message;
    this.body = opened.body;
    this.headerBytes = opened.headerBytes ?? 0;
    this.deadlineMs = nowMs + opened.timeoutMs;
    this.lastEpoch = opened.resume ? "unknown" : undefined;
    this.before = [this.lastEpoch, undefined];
    const want = opened.message.want ?? [];
    this.stream = want.includes("chunks") ? new TextStream(opened.message.window) : undefined;
    this.tools = want.includes("tools") ? new ToolLedger() : undefined;
  }

  /** Whether its inputs are not at hand. */
  get attaches(): boolean {
    return this.message.t === "attach";
  }
}

export interface Patience {
  /** How long what was never sent waits for a broker; undefined: as long as its own timeout. */
  connectTimeoutMs: number | undefined;
  /** How long after a job's deadline the broker's own answer, which carries the usage, is waited for. */
  deadlineSlackMs: number;
}

/** Timer keys are `job:ID`, `retry:ID` and `acks`. */
export class JobBook {
  private readonly jobs = new Map<string, Job>();
  private acks: string[] = [];

  constructor(
    private readonly session: Session,
    private readonly timers: Timers,
    private readonly emit: Emit,
    private readonly random: () => number,
    private readonly patience: Patience,
  ) {}

  get size(): number {
    return this.jobs.size;
  }

  /** Take a job over; it is sent as soon as there is a session. */
  open(opened: OpenJob, nowMs: number): void {
    const job = new Job(opened, nowMs);
    this.jobs.set(job.id, job);
    // If its result is wanted once more, the broker must not forget it yet.
    if (job.attaches || opened.resume) this.acks = this.acks.filter((id) => id !== job.id);
    let dueMs = job.deadlineMs;
    const { connectTimeoutMs } = this.patience;
    if (!this.session.live && connectTimeoutMs !== undefined) dueMs = Math.min(dueMs, nowMs + connectTimeoutMs);
    this.timers.set(`job:${job.id}`, dueMs);
    if (this.session.live) this.send(job, nowMs);
  }

  /** Stop a job. One that no broker can know ends here and now. */
  cancel(id: string, nowMs: number): void {
    const job = this.jobs.get(id);
    if (job === undefined || job.cancelling) return;
    job.cancelling = true;
    if (job.sent) {
      this.emit({ type: "send", message: { t: "cancel", job: id } });
    } else if (job.lastEpoch === undefined && !job.attaches) {
      this.end(job, new Cancelled("cancelled before it was sent", { reason: "cancelled", job: id }));
      return;
    }
    if (!job.overdue) {
      job.deadlineMs = Math.min(job.deadlineMs, nowMs + CANCEL_WAIT_MS);
      this.timers.set(`job:${id}`, job.deadlineMs);
    }
  }

  /** The reader of a stream took a chunk; credit follows when half the window is used. */
  read(id: string, attempt: number, seq: number): void {
    const job = this.jobs.get(id);
    const upto = job?.stream?.read(attempt, seq);
    if (job?.sent && upto !== undefined) {
      this.emit({ type: "send", message: { t: "credit", job: id, attempt, upto } });
    }
  }

  /** Send every open job, in the order in which they were opened; those refused wait out their time. */
  sessionUp(nowMs: number): void {
    for (const job of [...this.jobs.values()]) {
      if (!job.waitsRetry) this.send(job, nowMs);
    }
  }

  /** Whatever was sent has to be sent again. */
  sessionDown(): void {
    for (const job of this.jobs.values()) job.sent = false;
  }

  /** News of a job that its client wanted. */
  updated(message: Accepted | Started | Progress): void {
    const job = this.jobs.get(message.job);
    if (job === undefined) return;
    if (job.stream !== undefined) this.text(job, job.stream.restart(message.attempt));
    this.emit({ type: "updated", job: job.id, message });
  }

  /** A piece of a stream; dropped when nobody reads it. */
  chunk(message: ChunkMessage, body: Uint8Array): void {
    const job = this.jobs.get(message.job);
    if (job?.stream === undefined) return;
    let fields: PlainMap = {};
    try {
      fields = bodyPart(body, "fields");
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
    }
    this.text(job, job.stream.take(message, fields));
  }

  /** The program calls a tool: run it once, and answer each time that it comes. */
  toolCall(message: ToolCall, body: Uint8Array): void {
    const { attempt, call, name } = message;
    const job = this.jobs.get(message.job);
    if (job?.tools === undefined || job.cancelling) {
      this.answerTool(message.job, attempt, call, job?.tools === undefined ? NO_TOOLS : CANCELLING);
      return;
    }
    const known = job.tools.came(attempt, call, name, body);
    if (typeof known === "object") {
      this.answerTool(job.id, attempt, call, known);
    } else if (known === "new") {
      const { run, voids } = job.tools.begin(attempt, call, name, body);
      if (voids) this.emit({ type: "tools-void", job: job.id });
      this.emit({ type: "tool-called", job: job.id, run, name, body, timeoutMs: message.timeout_ms });
    }
  }

  /** A tool was run. Without a session the answer is kept: its call comes again. */
  toolAnswered(id: string, run: number, answer: Answer): void {
    const job = this.jobs.get(id);
    if (job?.tools === undefined) return;
    const limit = this.session.limits.max_body_bytes;
    if (answer.body.length > limit) {
      const message = `what the tool returned has ${answer.body.length} bytes, the limit is ${limit}`;
      answer = { code: "RESOURCE_EXHAUSTED", message, body: NO_BODY };
    }
    const call = job.tools.answered(run, answer);
    if (call !== undefined && job.sent) this.answerTool(id, call.attempt, call.call, answer);
  }

  /** The end of a job. Always acknowledged: what is not open here is wanted by nobody here. */
  result(message: Result, body: Uint8Array, nowMs: number): void {
    this.acks.push(message.job);
    if (this.acks.length >= ACK_BATCH) this.flushAcks();
    else if (this.acks.length === 1) this.timers.set("acks", nowMs + ACK_DELAY_MS);
    const job = this.jobs.get(message.job);
    if (job !== undefined) this.end(job, this.outcome(job, message, body));
  }

  /** `error` named this job: send it again later if that may help within its deadline, else it ends. */
  refused(error: ErrorMessage, nowMs: number): void {
    const job = this.jobs.get(error.job ?? "");
    if (job === undefined) return;
    if (job.cancelling && !job.attaches && error.retryable) {
      this.end(job, new Cancelled("cancelled while it waited to be sent again", { reason: "cancelled", job: job.id }));
      return;
    }
    const waitMs = this.retryWaitMs(job, error);
    if (!error.retryable || error.reason === "no_worker" || nowMs + waitMs >= job.deadlineMs) {
      this.end(job, errorFrom(error));
      return;
    }
    // Refused means that nothing was made: what an earlier broker knows of the job is what counts again.
    [job.lastEpoch, job.otherEpoch] = job.before;
    job.sent = false;
    job.waitsRetry = true;
    job.refusals += 1;
    this.timers.set(`retry:${job.id}`, nowMs + waitMs);
  }

  /** End one job with this error. */
  fail(id: string, makeError: (job: string) => DspymqError): void {
    const job = this.jobs.get(id);
    if (job !== undefined) this.end(job, makeError(id));
  }

  /** End every job; `makeError` is given each id. */
  failAll(makeError: (job: string) => DspymqError): void {
    for (const job of [...this.jobs.values()]) this.end(job, makeError(job.id));
  }

  /** The wait after a refusal is over. */
  retryDue(id: string, nowMs: number): void {
    const job = this.jobs.get(id);
    if (job === undefined) return;
    job.waitsRetry = false;
    if (this.session.live) this.send(job, nowMs);
  }

  /** A job's time to reach a broker, its deadline, or the slack after that, has come. */
  jobDue(id: string, nowMs: number): void {
    const job = this.jobs.get(id);
    if (job === undefined) return;
    if (nowMs < job.deadlineMs) {
      if (job.reached || this.session.live) this.timers.set(`job:${id}`, job.deadlineMs);
      else this.end(job, unreachable(this.session, id));
    } else if (job.sent && !job.overdue) {
      job.overdue = true;
      this.timers.set(`job:${id}`, nowMs + this.patience.deadlineSlackMs);
    } else {
      this.giveUp(job);
    }
  }

  /** Send the acks that are due; without a session they wait for the next. */
  flushAcks(): void {
    if (this.acks.length === 0 || !this.session.live) return;
    this.emit({ type: "send", message: { t: "ack", jobs: this.acks } });
    this.acks = [];
    this.timers.cancel("acks");
  }

  /** Another broker: the results that were not yet acknowledged are gone with the old one. */
  forgetAcks(): void {
    this.acks = [];
  }

  private send(job: Job, nowMs: number): void {
    const limit = this.session.limits.max_body_bytes;
    if (job.body.length > limit) {
      const text = `the inputs take ${job.body.length} bytes, the limit is ${limit}`;
      this.end(job, new ResourceExhausted(text, { reason: "body_too_large", job: job.id }));
      return;
    }
    // What is added when it is sent: the epoch, mostly.
    if (job.headerBytes + 96 > this.session.limits.max_header_bytes) {
      const text = `the header takes ${job.headerBytes} bytes, the limit is ${this.session.limits.max_header_bytes}`;
      this.end(job, new ResourceExhausted(text, { reason: "header_too_large", job: job.id }));
      return;
    }
    const { epoch } = this.session;
    const anew = job.lastEpoch !== epoch;
    job.before = [job.lastEpoch, job.otherEpoch];
    if (anew) job.otherEpoch = job.lastEpoch;
    let { message } = job;
    if (message.t === "submit") {
      message = { ...message, timeout_ms: Math.max(1, job.deadlineMs - nowMs) };
      const known = job.otherEpoch ?? job.lastEpoch;
      if (known !== undefined) message.known_epoch = known;
    }
    if (job.reached) {
      job.stream?.rejoin(anew);
      job.tools?.rejoin(anew);
    }
    job.lastEpoch = epoch;
    job.sent = job.reached = true;
    this.emit({ type: "send", message, body: job.body });
    if (job.cancelling) this.emit({ type: "send", message: { t: "cancel", job: job.id } });
  }

  private answerTool(job: string, attempt: number, call: number, answer: Answer): void {
    if (!this.session.live) return;
    const { code, message, body } = answer;
    this.emit({
      type: "send",
      message: { t: "tool_result", job, attempt, call, code, ...(message === undefined ? {} : { message }) },
      body,
    });
  }

  private outcome(job: Job, message: Result, body: Uint8Array): Outcome {
    if (message.code !== "OK") return errorFrom(message);
    let outputs: PlainMap;
    try {
      outputs = bodyPart(body, "outputs");
    } catch (error) {
      return new Internal(`bad result: ${(error as Error).message}`, { reason: "invalid_body", job: job.id });
    }
    if (job.stream !== undefined) this.text(job, job.stream.finish(message, outputs));
    return new Prediction(outputs, message);
  }

  private giveUp(job: Job): void {
    if (!job.reached && !job.cancelling) {
      this.end(job, unreachable(this.session, job.id));
      return;
    }
    if (job.sent && !job.attaches && !job.cancelling) {
      this.emit({ type: "send", message: { t: "cancel", job: job.id } });
    }
    if (job.cancelling) {
      this.end(job, new Cancelled("cancelled; the broker did not confirm it", { reason: "cancelled", job: job.id }));
      return;
    }
    const where = job.sent ? "the broker did not answer" : `no session: ${this.session.lastFailure}`;
    this.end(
      job,
      new DeadlineExceeded(`no result in time (${where})`, { reason: "deadline", retryable: true, job: job.id }),
    );
  }

  private retryWaitMs(job: Job, error: ErrorMessage): number {
    if (error.retry_after_ms !== undefined) {
      // Spread out those that were refused together, never earlier than asked for.
      return Math.max(1, Math.ceil(error.retry_after_ms * (1 + 0.25 * this.random())));
    }
    const longestMs = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** Math.min(job.refusals, 16));
    return Math.floor(longestMs * (0.5 + 0.5 * this.random()));
  }

  private text(job: Job, chunks: readonly Chunk[]): void {
    if (chunks.length > 0) this.emit({ type: "text", job: job.id, chunks });
  }

  private end(job: Job, outcome: Outcome): void {
    this.jobs.delete(job.id);
    this.timers.cancel(`job:${job.id}`);
    this.timers.cancel(`retry:${job.id}`);
    this.emit({ type: "ended", job: job.id, outcome });
  }
}

/** The one line that says where no broker answered, and why as far as it is known. */
export function unreachable(session: Session, job?: string): BrokerUnreachable {
  const why = session.lastFailure ? ` (${session.lastFailure})` : "";
  return new BrokerUnreachable(`no broker answered at ${session.addresses.join(", ")}${why}`, { retryable: true, job });
}
