/**
 * What the client throws: one class for each code, so that callers ask `instanceof` and look at `reason` for more.
 *
 *     DspymqError                     code reason message retryable retryAfterMs details job usage
 *     ├── InvalidArgument             inputs or a request are wrong; `fields` says which
 *     ├── NotFound                    no such program, revision, profile, job
 *     ├── AlreadyExists               the job id was used for another content
 *     ├── PermissionDenied            this role may not do that
 *     ├── Unauthenticated             the broker wants other credentials
 *     ├── FailedPrecondition          the state is wrong: result gone, model key refused
 *     ├── ResourceExhausted           too large, too many, or the model's rate limit
 *     ├── Aborted                     superseded by another session, or the job ended its workers
 *     ├── Cancelled                   cancelled by its client
 *     │   └── ClientClosed            the client was closed before the answer came
 *     ├── DeadlineExceeded            the job's own timeout passed
 *     ├── Unavailable                 lost workers, no worker, the model is down: trying again may help
 *     │   └── BrokerUnreachable       no broker answered at any address
 *     ├── Unimplemented               this broker does not have that
 *     ├── Internal                    a fault of dspymq, or a model's answer that does not fit
 *     └── ProgramError                code UNKNOWN: the program itself failed
 *
 * Codes are gRPC's names, reasons those of SPEC.md section 12.3. A wait that its own AbortSignal ended rejects with
 * that signal's reason, as everywhere in Node.
 */
import type { Details, ErrorMessage, ResultFields, Usage } from "./protocol/messages.js";
import type { Problem } from "./protocol/problem.js";

export interface DspymqErrorOptions {
  code?: string | undefined;
  reason?: string | undefined;
  retryable?: boolean | undefined;
  /** Not earlier than after this, in milliseconds. */
  retryAfterMs?: number | undefined;
  details?: Details | undefined;
  job?: string | undefined;
  usage?: Usage | undefined;
  cause?: unknown;
}

/** Base of every error of a job, a request or the client; see the module's tree. */
export class DspymqError extends Error {
  static readonly code: string = "UNKNOWN";
  static readonly reason: string = "";

  /** One of gRPC's names, such as `DEADLINE_EXCEEDED`. */
  readonly code: string;
  /** Refines the code, such as `deadline`; may be empty. Decide by these two, never by `message`. */
  readonly reason: string;
  /** The same call, as a new job, may succeed. */
  readonly retryable: boolean;
  /** Not earlier than after this, in milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** More, for programs (SPEC.md section 12.4). */
  readonly details: Details;
  /** The id of the job that it is about. */
  readonly job: string | undefined;
  /** What the failed attempt had used, where its worker could tell. */
  readonly usage: Usage | undefined;

  constructor(message: string, options: DspymqErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = options.code ?? new.target.code;
    this.reason = options.reason ?? new.target.reason;
    this.retryable = options.retryable ?? false;
    this.retryAfterMs = options.retryAfterMs;
    this.details = options.details ?? {};
    this.job = options.job;
    this.usage = options.usage;
  }

  /** What is wrong, by input field; empty when the fault is not in a field. */
  get fields(): Record<string, string> {
    const found: [string, string][] = [];
    const entries = this.details["fields"];
    for (const entry of Array.isArray(entries) ? entries : []) {
      if (typeof entry !== "object" || entry === null) continue;
      const { field, message, problem } = entry as Record<string, unknown>;
      found.push([String(field ?? ""), String(message ?? problem ?? "")]);
    }
    return Object.fromEntries(found);
  }
}

export class InvalidArgument extends DspymqError {
  static override readonly code = "INVALID_ARGUMENT";
}

export class NotFound extends DspymqError {
  static override readonly code = "NOT_FOUND";
}

export class AlreadyExists extends DspymqError {
  static override readonly code = "ALREADY_EXISTS";
}

export class PermissionDenied extends DspymqError {
  static override readonly code = "PERMISSION_DENIED";
}

export class Unauthenticated extends DspymqError {
  static override readonly code = "UNAUTHENTICATED";
}

export class FailedPrecondition extends DspymqError {
  static override readonly code = "FAILED_PRECONDITION";
}

export class ResourceExhausted extends DspymqError {
  static override readonly code = "RESOURCE_EXHAUSTED";
}

export class Aborted extends DspymqError {
  static override readonly code = "ABORTED";
}

export class Cancelled extends DspymqError {
  static override readonly code = "CANCELLED";
}

export class ClientClosed extends Cancelled {
  static override readonly reason = "client_closed";
}

export class DeadlineExceeded extends DspymqError {
  static override readonly code = "DEADLINE_EXCEEDED";
}

export class Unavailable extends DspymqError {
  static override readonly code = "UNAVAILABLE";
}

export class BrokerUnreachable extends Unavailable {
  static override readonly reason = "broker_unreachable";
}

export class Unimplemented extends DspymqError {
  static override readonly code = "UNIMPLEMENTED";
}

export class Internal extends DspymqError {
  static override readonly code = "INTERNAL";
}

export class ProgramError extends DspymqError {
  static override readonly code = "UNKNOWN";
}

type ErrorClass = new (message: string, options?: DspymqErrorOptions) => DspymqError;

const CLASSES = new Map<string, ErrorClass>(
  [
    InvalidArgument,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    Unauthenticated,
    FailedPrecondition,
    ResourceExhausted,
    Aborted,
    Cancelled,
    DeadlineExceeded,
    Unavailable,
    Unimplemented,
    Internal,
    ProgramError,
  ].map((each) => [each.code, each]),
);

/** Codes of gRPC that have no class of their own. */
const OTHER_CODES = new Set(["OUT_OF_RANGE", "DATA_LOSS"]);

interface ErrorFields {
  code: string;
  reason?: string;
  message?: string;
  retryable: boolean;
  retry_after_ms?: number;
  details?: Details;
  job?: string;
  usage?: Usage;
}

/** The error of a result that is not OK, or of a message that was refused. An unknown code counts as UNKNOWN. */
export function errorFrom(said: (ResultFields & { job: string }) | ErrorMessage): DspymqError {
  const fields: ErrorFields = said;
  const known = CLASSES.get(fields.code);
  return new (known ?? DspymqError)(fields.message || fields.reason || fields.code, {
    code: known || OTHER_CODES.has(fields.code) ? fields.code : "UNKNOWN",
    reason: fields.reason ?? "",
    retryable: fields.retryable,
    retryAfterMs: fields.retry_after_ms,
    details: fields.details,
    job: fields.job,
    usage: fields.usage,
  });
}

/** The error of something that was refused on this side, before it was sent. */
export function errorOfProblem(problem: Problem, job?: string): DspymqError {
  const made = CLASSES.get(problem.code) ?? InvalidArgument;
  return new made(problem.message, { reason: problem.reason, job });
}
