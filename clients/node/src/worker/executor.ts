/** Runs programs: takes dispatches, gives started, chunks, progress, tool calls and one result for each. */
import { decodeBody, encodeBody, isMap, mapOf, type PlainMap } from "../protocol/body.js";
import { NO_BODY } from "../protocol/codec.js";
import type {
  Cause,
  Dispatch,
  ModelUsage,
  Usage,
  WorkerAttach,
  WorkerProgress,
  WorkerResult,
} from "../protocol/messages.js";
import { Problem } from "../protocol/problem.js";
import type { JobContext } from "./job-context.js";
import { JobError } from "./job-error.js";
import type { FromExecutor, ToExecutor } from "./messages.js";
import type { Program } from "./programs.js";
import { StreamBuffer } from "./stream-buffer.js";
import { parseTools, ToolChannel, type ToolOffer } from "./tool-channel.js";

const MAX_TEXT = 4_096;
const LONGEST_MS = 2 ** 31 - 1;
const CONFIG_KEYS = new Set(["temperature", "top_p", "max_tokens", "seed", "stop"]);
const NO_TOOLS: ReadonlyMap<string, ToolOffer> = new Map();

/** Resolves, if it gives a promise, when the message has left this process, whatever becomes of the process then. */
export type Say = (message: FromExecutor, body: Uint8Array) => Promise<void> | void;

/** What all executors of a worker know. */
export interface ExecutorConfig {
  /** Where jobs run, for people. */
  place: string;
  profiles: readonly string[];
}

export class ProgramRunner {
  private readonly running = new Map<string, Attempt>();

  constructor(
    private readonly programs: ReadonlyMap<string, Program>,
    private readonly config: ExecutorConfig,
    private readonly say: Say,
  ) {}

  /** Say what is offered. */
  begin(): void {
    const programs = [...this.programs.values()].map(({ name, revision }) => ({ name, revision }));
    const descriptions = Object.fromEntries([...this.programs].map(([name, { description }]) => [name, description]));
    this.say({ t: "ready", programs, descriptions }, NO_BODY);
  }

  /** Do what the worker says; never throws. */
  hear(message: ToExecutor, body: Uint8Array): void {
    switch (message.t) {
      case "dispatch": {
        const attempt = new Attempt(message, this.config, this.say);
        this.running.set(message.lease, attempt);
        void attempt.run(this.programs.get(message.program), body).finally(() => this.running.delete(message.lease));
        break;
      }
      case "cancel":
        this.running.get(message.lease)?.stop(message.cause);
        break;
      case "attach":
        this.running.get(message.lease)?.attach(message);
        break;
      case "credit":
        if (message.attempt === this.running.get(message.lease)?.number)
          this.running.get(message.lease)?.credit(message.upto);
        break;
      case "tool_result":
        if (message.attempt === this.running.get(message.lease)?.number) {
          this.running.get(message.lease)?.tools?.answered(message, body);
        }
        break;
      case "bye":
        break;
    }
  }
}

interface Prepared {
  program: Program;
  inputs: PlainMap;
  config: PlainMap;
}

/** The reason of a job's signal. */
class Stopped extends Error {
  constructor(why: Cause) {
    super(why === "deadline" ? "the job's time is over" : "the job was cancelled");
    this.name = "AbortError";
  }
}

class Attempt {
  tools: ToolChannel | undefined;
  private stream: StreamBuffer | undefined;
  private readonly controller = new AbortController();
  private readonly beganMs = performance.now();
  private cause: Cause | undefined;
  private usage: Usage = { calls: 0, models: {} };
  private wantsProgress: boolean;
  private wantsTools: boolean;
  private progress: WorkerProgress | undefined;
  private flushing: NodeJS.Immediate | undefined;
  private ended = false;

  constructor(
    private readonly dispatch: Dispatch,
    private readonly config: ExecutorConfig,
    private readonly say: Say,
  ) {
    this.wantsProgress = dispatch.want.includes("progress");
    this.wantsTools = dispatch.want.includes("tools");
  }

  get number(): number {
    return this.dispatch.attempt;
  }

  /** Run it to its one result, whatever the program does. */
  async run(program: Program | undefined, body: Uint8Array): Promise<void> {
    const deadline = setTimeout(() => this.stop("deadline"), Math.min(this.dispatch.timeout_ms, LONGEST_MS));
    let outputs: Uint8Array = NO_BODY;
    let failure: unknown;
    try {
      const prepared = this.prepare(program, body);
      const told = this.begin(prepared);
      // Nothing may have run that the worker does not know to have been started.
      if (told !== undefined) await told;
      if (this.cause !== undefined) throw stopped(this.cause, this.dispatch.timeout_ms);
      const returned = await prepared.program.run(prepared.inputs, this.context(prepared));
      outputs = this.finish(returned);
    } catch (error) {
      failure = error;
    }
    clearTimeout(deadline);
    this.ended = true;
    clearImmediate(this.flushing);
    if (this.cause !== undefined) failure = stopped(this.cause, this.dispatch.timeout_ms);
    if (!this.isCut) this.sendChunks(true);
    this.sendProgress();
    const failed = failure === undefined ? undefined : failureOf(failure);
    const { lease, attempt } = this.dispatch;
    const result: WorkerResult = {
      t: "result",
      lease,
      attempt,
      ...(failed ?? { code: "OK", retryable: false }),
      chunks: this.stream?.nextSeq ?? 0,
      usage: this.usage,
      timings: { run_ms: Math.round(performance.now() - this.beganMs) },
    };
    if (program !== undefined) result.revision = program.revision;
    this.say(result, failed === undefined ? outputs : NO_BODY);
    this.controller.abort(new Stopped("fenced"));
  }

  /** Stop it: its signal is aborted. */
  stop(cause: Cause): void {
    if (this.ended || this.cause === "fenced" || (this.cause !== undefined && cause !== "fenced")) return;
    this.cause = cause;
    this.controller.abort(new Stopped(cause));
  }

  /** A client attached: what is wanted is replaced. */
  attach(message: WorkerAttach): void {
    if (this.ended) return;
    const want = message.want ?? [];
    this.wantsProgress = want.includes("progress");
    this.wantsTools = want.includes("tools");
    this.stream?.attach(want.includes("chunks"), message.window);
    this.sendChunks(false);
    if (this.wantsTools) this.tools?.attach();
  }

  credit(upto: number): void {
    if (this.ended) return;
    this.stream?.credit(upto);
    this.sendChunks(false);
  }

  /** Everything that can be refused before the program runs. Throws JobError. */
  private prepare(program: Program | undefined, octets: Uint8Array): Prepared {
    const { dispatch } = this;
    const body = decodeBody(octets);
    const inputs = mapOf(body["inputs"] ?? {}, "`inputs`");
    const config = mapOf(body["config"] ?? {}, "`config`");
    if (program === undefined)
      throw missing("unknown_program", `there is no program ${JSON.stringify(dispatch.program)} here`);
    if (dispatch.revision !== program.revision) {
      const text = `${program.name} is here at revision ${program.revision}, not ${dispatch.revision}`;
      throw missing("unknown_revision", text);
    }
    if (dispatch.profile !== undefined && !this.config.profiles.includes(dispatch.profile)) {
      throw missing("unknown_profile", `there is no profile ${JSON.stringify(dispatch.profile)} here`);
    }
    const other = Object.keys(config).find((key) => !CONFIG_KEYS.has(key));
    if (other !== undefined)
      throw new Problem("invalid_body", `\`config\` has no ${JSON.stringify(other.slice(0, 64))}`);
    if (isMap(body["spec"]))
      throw new Problem("invalid_body", "`spec` belongs to inline programs, which this worker has not");
    const tools = parseTools(body["tools"]);
    if (tools.size > 0 && !dispatch.want.includes("tools")) {
      const text = "a body with `tools` needs `tools` in `want`, or nobody would be called";
      throw new JobError(text, { code: "INVALID_ARGUMENT", reason: "invalid_tools" });
    }
    if (dispatch.want.includes("tools")) {
      this.tools = new ToolChannel(
        tools,
        (request) => this.askTool(request),
        () => this.leftMs(),
        this.controller.signal,
      );
    }
    return { program, inputs: program.checked(inputs), config };
  }

  private begin({ program }: Prepared): Promise<void> | void {
    const { lease, attempt, want, window } = this.dispatch;
    this.stream = new StreamBuffer(want.includes("chunks"), window, attempt > 1, program.texts);
    return this.say({ t: "started", lease, attempt, revision: program.revision, worker: this.config.place }, NO_BODY);
  }

  private context({ config }: Prepared): JobContext {
    const { dispatch, controller, tools } = this;
    return {
      signal: controller.signal,
      job: dispatch.job,
      attempt: dispatch.attempt,
      profile: dispatch.profile,
      config,
      trace: dispatch.trace,
      tools: tools?.tools ?? NO_TOOLS,
      leftMs: () => this.leftMs(),
      write: (field, text) => {
        if (typeof text !== "string") throw new TypeError(`\`write\` takes text, not ${typeof text}`);
        this.stream?.write(field, text);
        this.flushSoon();
      },
      clear: (field) => {
        this.stream?.clear(field);
        this.flushSoon();
      },
      progress: ({ done, total, note }) => {
        const { lease, attempt } = dispatch;
        const said: WorkerProgress = { t: "progress", lease, attempt };
        if (done !== undefined) said.done = wholeCount(done, "done");
        if (total !== undefined) said.total = wholeCount(total, "total");
        if (note !== undefined) said.note = shortText(String(note));
        this.progress = said;
        this.flushSoon();
      },
      callTool: async (name, args = {}) => {
        if (tools === undefined)
          throw new JobError("this job takes no calls of tools", { code: "FAILED_PRECONDITION" });
        return tools.call(name, args);
      },
      addUsage: (model, used) => this.addUsage(model, used),
    };
  }

  private finish(returned: unknown): Uint8Array {
    if (this.cause !== undefined) throw stopped(this.cause, this.dispatch.timeout_ms);
    if (!isMap(returned)) {
      throw new JobError("the program gave no object of outputs", {
        code: "INTERNAL",
        reason: "unserializable_output",
      });
    }
    try {
      const body = encodeBody({ outputs: returned });
      this.stream?.settle(returned);
      return body;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      throw new JobError(error.message, { code: "INTERNAL", reason: "unserializable_output" });
    }
  }

  private leftMs(): number {
    return Math.max(0, this.dispatch.timeout_ms - (performance.now() - this.beganMs));
  }

  private askTool(request: { call: number; name: string; timeoutMs: number; body: Uint8Array }): void {
    if (!this.wantsTools) return;
    const { lease, attempt } = this.dispatch;
    const { call, name, timeoutMs, body } = request;
    this.say({ t: "tool_call", lease, attempt, call, name, timeout_ms: timeoutMs }, body);
  }

  private addUsage(model: string, used: Partial<ModelUsage>): void {
    const before = Object.hasOwn(this.usage.models, model) ? this.usage.models[model] : undefined;
    const input = (before?.input_tokens ?? 0) + wholeCount(used.input_tokens ?? 0, "input_tokens");
    const output = (before?.output_tokens ?? 0) + wholeCount(used.output_tokens ?? 0, "output_tokens");
    const entry: ModelUsage = { input_tokens: input, output_tokens: output };
    const cost = (before?.cost ?? 0) + (used.cost ?? 0);
    if (before?.cost !== undefined || used.cost !== undefined) entry.cost = cost;
    this.usage.calls += 1;
    this.usage.models[model] = entry;
  }

  /** Everything written in one go of the program becomes one chunk. */
  private flushSoon(): void {
    if (this.ended || this.flushing !== undefined) return;
    this.flushing = setImmediate(() => {
      this.flushing = undefined;
      if (this.ended || this.isCut) return;
      this.sendChunks(false);
      this.sendProgress();
    });
  }

  /** Whether what it still says is for nobody. */
  private get isCut(): boolean {
    return this.cause !== undefined;
  }

  private sendChunks(last: boolean): void {
    const { lease, attempt } = this.dispatch;
    for (let chunk = this.stream?.take(last); chunk !== undefined; chunk = this.stream?.take(last)) {
      const { seq, reset, fields } = chunk;
      this.say({ t: "chunk", lease, attempt, seq, reset }, encodeBody({ fields }));
    }
  }

  private sendProgress(): void {
    const { progress } = this;
    this.progress = undefined;
    if (progress !== undefined && this.wantsProgress && !this.isCut) this.say(progress, NO_BODY);
  }
}

type FailureFields = Pick<WorkerResult, "code" | "reason" | "message" | "retryable" | "retry_after_ms" | "details">;

function failureOf(failure: unknown): FailureFields {
  try {
    return describe(failure);
  } catch {
    // What was thrown has no text that can be read.
    return { code: "UNKNOWN", reason: "program_error", message: "the program failed", retryable: false };
  }
}

function describe(failure: unknown): FailureFields {
  if (failure instanceof JobError) {
    const { code, reason, message, retryable, retryAfterMs, details } = failure;
    const fields: FailureFields = { code, reason, message: shortText(message), retryable };
    if (retryAfterMs !== undefined) fields.retry_after_ms = Math.ceil(retryAfterMs);
    if (details !== undefined) fields.details = details;
    return fields;
  }
  if (failure instanceof Problem) {
    return { code: failure.code, reason: failure.reason, message: shortText(failure.message), retryable: false };
  }
  const isError = failure instanceof Error;
  return {
    code: "UNKNOWN",
    reason: "program_error",
    message: shortText(isError ? failure.message : String(failure)),
    retryable: false,
    details: { type: shortText(isError ? failure.name : typeof failure) },
  };
}

function stopped(cause: Cause, timeoutMs: number): JobError {
  if (cause === "deadline") {
    const text = `the job did not end within ${timeoutMs} ms`;
    return new JobError(text, { code: "DEADLINE_EXCEEDED", reason: "deadline", retryable: true });
  }
  const text = cause === "cancel" ? "the job was cancelled" : "the attempt was fenced";
  return new JobError(text, { code: "CANCELLED", reason: "cancelled" });
}

function missing(reason: string, message: string): JobError {
  return new JobError(message, { code: "NOT_FOUND", reason });
}

function shortText(text: string): string {
  return text.toWellFormed().slice(0, MAX_TEXT).toWellFormed();
}

function wholeCount(value: number, name: string): number {
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new TypeError(`\`${name}\` must be a whole number from 0, not ${value}`);
}
