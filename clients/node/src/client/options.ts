/** What a caller may choose for a job, and how a call becomes a `submit`. Pure. */
import { errorOfProblem, InvalidArgument } from "../errors.js";
import { encodeBody, isMap } from "../protocol/body.js";
import { clientCodec, NO_BODY } from "../protocol/codec.js";
import {
  type Accepted,
  type Attach,
  DEFAULT_LIMITS,
  type Progress,
  type Started,
  type Submit,
  type Want,
} from "../protocol/messages.js";
import { Problem } from "../protocol/problem.js";
import type { OpenJob } from "./events.js";
import { describeTools, type Tool } from "./tools.js";

/** How far a job is; what is not known is undefined. */
export type ProgressReport = Pick<Progress, "attempt" | "done" | "total" | "note">;

/** Options of one job; those of the client (`new Client({ defaults })`) hold where one is left out. */
export interface JobOptions {
  /** Time that the job may take in all, queue included; then it ends as DeadlineExceeded. Default 60,000. */
  timeoutMs?: number | undefined;
  /** Aborting it cancels the job. */
  signal?: AbortSignal | undefined;
  /** The language model profile of the worker that runs it; left out: the worker's default. */
  profile?: string | undefined;
  /** Run exactly this revision of the program. */
  revision?: string | undefined;
  /** The kind of slot it waits for. */
  lane?: string | undefined;
  /** 0 to 9, 9 first; orders this client's own jobs. */
  priority?: number | undefined;
  /** How an inline signature (a program with `->`) is run; `react` calls `tools`. */
  kind?: "predict" | "chain_of_thought" | "react" | undefined;
  /** What the model of an inline signature is told. */
  instructions?: string | undefined;
  /** Turns of `react`. */
  maxIters?: number | undefined;
  /** Functions that the program may call while it runs; they run here. */
  tools?: readonly Tool[] | undefined;
  /** Parameters of the model calls, such as `{ temperature: 0.2 }`. */
  config?: Record<string, unknown> | undefined;
  /** Unavailable at once when no worker can run it now, instead of waiting. */
  failFast?: boolean | undefined;
  /** false for programs with side effects: never run again after it may have started. */
  redeliver?: boolean | undefined;
  /** Reserved by the protocol. */
  durable?: boolean | undefined;
  /** What happens to the job when this client goes away. */
  onDisconnect?: "cancel" | "keep" | undefined;
  /** Jobs of one key prefer the same worker. */
  affinity?: string | undefined;
  /** Chunks of its stream that may be under way unread; null: no bound, read fast. Default 256. */
  window?: number | null | undefined;
  /** W3C trace context, carried to the worker. */
  trace?: Record<string, string> | undefined;
  /** Called with where the job stands, once the broker has it. */
  onAccepted?: ((news: Omit<Accepted, "t" | "job">) => void) | undefined;
  /** Called when its program runs, and where; again for each attempt. */
  onStarted?: ((news: Omit<Started, "t" | "job">) => void) | undefined;
  /** Called with what the program says of how far it is; only the newest counts. */
  onProgress?: ((news: ProgressReport) => void) | undefined;
}

/** Options of a job that is started and followed later. */
export interface SubmitOptions extends JobOptions {
  /** Have its text as it is written: iterate over the Job. */
  stream?: boolean | undefined;
  /** Called with the whole text so far, by output field, whenever some came (with `stream`). */
  onText?: ((text: Readonly<Record<string, string>>) => void) | undefined;
  /** The job's id; left out: a new UUID. */
  id?: string | undefined;
  /** A job of this id may have been sent before, by an earlier life of this process: join it, and run no second one. */
  resume?: boolean | undefined;
}

export const DEFAULT_TIMEOUT_MS = 60_000;
const DEFAULT_WINDOW = 256;
const INLINE = "_inline";

const codec = clientCodec();

/** The event that starts a job. Throws InvalidArgument, which names what is wrong. */
export function submitEvent(
  id: string,
  program: string,
  inputs: Record<string, unknown>,
  options: SubmitOptions,
): OpenJob {
  const timeoutMs = checkedMs(options.timeoutMs ?? DEFAULT_TIMEOUT_MS, "timeoutMs");
  if (!isMap(inputs))
    throw new InvalidArgument("`inputs` must be an object of values by name", { reason: "invalid_inputs" });
  const inline = program.includes("->");
  const message: Submit = defined({
    t: "submit" as const,
    job: id,
    program: inline ? INLINE : program,
    timeout_ms: timeoutMs,
    revision: options.revision,
    profile: options.profile,
    lane: options.lane,
    priority: options.priority,
    ...attachment(options),
    on_disconnect: options.onDisconnect,
    fail_fast: options.failFast,
    redeliver: options.redeliver,
    durable: options.durable,
    affinity: options.affinity,
    trace: options.trace,
  });
  const headerBytes = check(message);
  const spec = inline
    ? {
        signature: program,
        kind: options.kind ?? "predict",
        instructions: options.instructions,
        max_iters: options.maxIters,
      }
    : undefined;
  const tools = options.tools?.length ? describeTools(options.tools) : undefined;
  try {
    const body = encodeBody({ inputs, spec, config: options.config, tools });
    return { type: "open", message, body, timeoutMs, resume: options.resume ?? false, headerBytes };
  } catch (error) {
    throw error instanceof Problem ? errorOfProblem(error, id) : error;
  }
}

/** The event that joins a job whose inputs are not at hand. Throws InvalidArgument. */
export function attachEvent(id: string, options: SubmitOptions): OpenJob {
  const timeoutMs = checkedMs(options.timeoutMs ?? DEFAULT_TIMEOUT_MS, "timeoutMs");
  const message: Attach = defined({ t: "attach" as const, job: id, ...attachment(options) });
  const headerBytes = check(message);
  return { type: "open", message, body: NO_BODY, timeoutMs, resume: false, headerBytes };
}

/** Whole milliseconds, at least 1. Throws InvalidArgument unless the number is finite and above 0. */
export function checkedMs(ms: number, name: string): number {
  if (typeof ms === "number" && ms > 0 && ms <= Number.MAX_SAFE_INTEGER) return Math.ceil(ms);
  throw new InvalidArgument(`\`${name}\` must be milliseconds above 0, not ${ms}`, { reason: "invalid_option" });
}

function attachment(options: SubmitOptions): { want?: Want[]; window?: number } {
  const want: Want[] = [];
  if (options.onAccepted !== undefined) want.push("accepted");
  if (options.onStarted !== undefined) want.push("started");
  if (options.onProgress !== undefined) want.push("progress");
  if (options.stream) want.push("chunks");
  if (options.tools?.length) want.push("tools");
  const window = options.stream ? (options.window === undefined ? DEFAULT_WINDOW : options.window) : null;
  return { ...(want.length > 0 ? { want } : {}), ...(window === null ? {} : { window }) };
}

/** Let the protocol's own tables look at it: what the broker would refuse is refused here. Gives the header's size. */
function check(message: Submit | Attach): number {
  try {
    const frames = codec.encode(message);
    codec.decode(frames);
    const size = frames[1]?.length ?? 0;
    if (size > DEFAULT_LIMITS.max_header_bytes) {
      throw new Problem("header_too_large", `the header takes ${size} bytes; shorten \`trace\``);
    }
    return size;
  } catch (error) {
    throw error instanceof Problem ? errorOfProblem(error, message.job) : error;
  }
}

function defined<T extends object>(fields: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as T;
}
