import type { Details } from "../protocol/messages.js";

export interface JobErrorOptions {
  /** One of gRPC's names; left out: UNKNOWN. */
  code?: string;
  /** Refines the code; left out: `program_error`. */
  reason?: string;
  /** The same call, as a new job, may succeed. */
  retryable?: boolean;
  /** Not earlier than after this, in milliseconds. */
  retryAfterMs?: number;
  /** More, for programs: what msgpack can hold. */
  details?: Details;
}

/**
 * Thrown by a program, it says how the job has failed. Anything else that a program throws ends its job as UNKNOWN /
 * `program_error`, with the error's message.
 */
export class JobError extends Error {
  readonly code: string;
  readonly reason: string;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly details: Details | undefined;

  constructor(message: string, options: JobErrorOptions = {}) {
    super(message);
    this.name = "JobError";
    this.code = options.code ?? "UNKNOWN";
    this.reason = options.reason ?? "program_error";
    this.retryable = options.retryable ?? false;
    this.retryAfterMs = options.retryAfterMs;
    this.details = options.details;
  }
}

/** What a call of a tool gives instead of a value. */
export class ToolError extends Error {
  /** `UNKNOWN` if the tool itself failed, `DEADLINE_EXCEEDED` if it did not answer, ... */
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = "ToolError";
    this.code = code;
  }
}
