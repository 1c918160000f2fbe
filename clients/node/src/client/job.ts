import { DspymqError, FailedPrecondition } from "../errors.js";
import type { Accepted, JobState, Progress, Started } from "../protocol/messages.js";
import type { Driver, JobHandle, ToolCalled } from "./driver.js";
import type { Chunk, Outcome } from "./events.js";
import type { ProgressReport, SubmitOptions } from "./options.js";
import type { Outputs, Prediction } from "./prediction.js";
import { ToolRunner } from "./tools.js";

/**
 * A submitted job. `await job.result()` gives its Prediction, or rejects with its error.
 *
 * A job that was submitted with `stream: true` can be iterated once, for its text as it is written; the iteration ends
 * with the job, and throws its error if it has one. What the reader has not taken is bounded by the job's `window`,
 * without slowing the job down. Leaving the loop does not stop the job; `cancel()` does.
 *
 * A Job is no promise: it can be given to and from async functions.
 */
export class Job<O extends Outputs = Outputs> implements AsyncIterable<Chunk> {
  /** Where it stands, as far as that was said (`onAccepted`, `onStarted`, ... make it be said). */
  status: "open" | JobState = "open";
  /** The attempt heard of last; 0 before any. */
  attempt = 0;
  /** Who runs it (with `onStarted`). */
  worker: string | undefined;
  /** What no worker offers now, so that it waits (with `onAccepted`). */
  missing: readonly string[] = [];
  /** How far it is (with `onProgress`). */
  progress: ProgressReport | undefined;

  /** @internal What the driver tells. */
  readonly handle: JobHandle;

  private outcome: Outcome | undefined;
  private readonly pieces = new Map<string, string>();
  private queue: Chunk[] = [];
  private waiters: (() => void)[] = [];
  private readonly runner: ToolRunner | undefined;
  private stopListening: (() => void) | undefined;

  /** Made by Client. */
  constructor(
    private readonly driver: Driver,
    readonly id: string,
    readonly program: string,
    private readonly options: SubmitOptions,
  ) {
    this.handle = {
      id,
      updated: (message) => this.updated(message),
      text: (chunks) => this.took(chunks),
      toolCalled: (called) => this.toolCalled(called),
      toolsVoid: () => this.runner?.stop(),
      ended: (outcome) => this.ended(outcome),
    };
    const { tools, signal } = options;
    if (tools?.length) {
      this.runner = new ToolRunner(tools, id, (run, answer) =>
        driver.feed({ type: "answer-tool", job: id, run, answer }),
      );
    }
    if (signal !== undefined) {
      const abort = (): void => this.cancel();
      signal.addEventListener("abort", abort, { once: true });
      this.stopListening = () => signal.removeEventListener("abort", abort);
    }
  }

  /** The text so far, by output field, of a job that streams. */
  get text(): Readonly<Record<string, string>> {
    return Object.fromEntries(this.pieces);
  }

  /** Whether it has ended, in whatever way. */
  get done(): boolean {
    return this.outcome !== undefined;
  }

  /** The error that it ended with. */
  get error(): DspymqError | undefined {
    return this.outcome instanceof DspymqError ? this.outcome : undefined;
  }

  /** Stop it; without effect on a job that is done. It ends as its result says, soon. */
  cancel(): void {
    if (!this.done) this.driver.feed({ type: "cancel", job: this.id });
  }

  /** Wait for its end. A `signal` ends the wait, not the job. */
  async result(options: { signal?: AbortSignal } = {}): Promise<Prediction<O>> {
    const { signal } = options;
    while (this.outcome === undefined) await this.news(signal);
    if (this.outcome instanceof DspymqError) throw traced(this.outcome);
    return this.outcome as Prediction<O>;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Chunk, void, undefined> {
    for (;;) {
      const chunk = await this.nextChunk();
      if (chunk === undefined) return;
      yield chunk;
    }
  }

  /** The next chunk that was not read yet; undefined at the end of a job that went well. Rejects with its error. */
  async nextChunk(signal?: AbortSignal): Promise<Chunk | undefined> {
    const [chunk] = await this.nextChunks(1, signal);
    return chunk;
  }

  /** As `nextChunk`, for all that have come, at least one; `[]` at the end. */
  async nextChunks(atMost = Infinity, signal?: AbortSignal): Promise<Chunk[]> {
    if (!this.options.stream) {
      const text = `job ${this.id} was submitted without \`stream: true\``;
      throw new FailedPrecondition(text, { reason: "not_streamed", job: this.id });
    }
    for (;;) {
      signal?.throwIfAborted();
      const chunks = this.queue.splice(0, atMost);
      const last = chunks.at(-1);
      if (last !== undefined) {
        if (!this.done) this.driver.feed({ type: "read", job: this.id, attempt: last.attempt, seq: last.seq });
        return chunks;
      }
      if (this.outcome instanceof DspymqError) throw traced(this.outcome);
      if (this.outcome !== undefined) return [];
      await this.news(signal);
    }
  }

  private toolCalled(called: ToolCalled): void {
    this.status = "running";
    this.runner?.call(called);
  }

  private ended(outcome: Outcome): void {
    this.outcome = outcome;
    this.status = "done";
    this.stopListening?.();
    this.runner?.stop();
    this.tell();
  }

  private updated(message: Accepted | Started | Progress): void {
    this.attempt = message.attempt;
    this.tell();
    if (message.t === "accepted") {
      this.status = message.state;
      this.missing = message.missing;
      const { state, attempt, duplicate, waiting, missing } = message;
      this.options.onAccepted?.({ state, attempt, duplicate, waiting, missing });
      return;
    }
    this.status = "running";
    this.missing = [];
    if (message.t === "started") {
      const { attempt, revision, worker } = message;
      this.worker = worker;
      this.options.onStarted?.({ attempt, revision, worker });
    } else {
      const { attempt, done, total, note } = message;
      this.progress = { attempt, done, total, note } as ProgressReport;
      this.options.onProgress?.(this.progress);
    }
  }

  private took(chunks: readonly Chunk[]): void {
    for (const chunk of chunks) {
      if (chunk.reset) {
        this.pieces.clear();
        this.queue = [];
      }
      if (chunk.field !== "") this.pieces.set(chunk.field, (this.pieces.get(chunk.field) ?? "") + chunk.text);
      this.queue.push(chunk);
      this.attempt = chunk.attempt;
    }
    this.status = "running";
    this.missing = [];
    this.tell();
    this.options.onText?.(this.text);
  }

  /** Wait until something was told. */
  private news(signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      const abort = (): void => {
        this.waiters = this.waiters.filter((each) => each !== told);
        reject(signal?.reason);
      };
      const told = (): void => {
        signal?.removeEventListener("abort", abort);
        resolve();
      };
      signal?.addEventListener("abort", abort, { once: true });
      this.waiters.push(told);
    });
  }

  private tell(): void {
    const { waiters } = this;
    this.waiters = [];
    for (const told of waiters) told();
  }
}

/** The error with the stack of who waits for it, and not that of the message that brought it. */
function traced(error: DspymqError): DspymqError {
  Error.captureStackTrace(error, traced);
  return error;
}

/** The text of a program as it is written. Leaving the loop, or aborting its signal, cancels the job. */
export class Stream<O extends Outputs = Outputs> implements AsyncIterable<Chunk> {
  /** Made by Client. */
  constructor(
    readonly job: Job<O>,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /** The text so far, by output field. */
  get text(): Readonly<Record<string, string>> {
    return this.job.text;
  }

  /** The outputs, after or instead of the text. */
  async result(): Promise<Prediction<O>> {
    return this.job.result(this.signal === undefined ? {} : { signal: this.signal });
  }

  /** Stop the job. */
  cancel(): void {
    this.job.cancel();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Chunk, void, undefined> {
    try {
      for (;;) {
        const chunk = await this.job.nextChunk(this.signal);
        if (chunk === undefined) return;
        yield chunk;
      }
    } finally {
      this.job.cancel();
    }
  }
}
