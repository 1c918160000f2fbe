/** Why a message cannot be read, or cannot be sent. */

/** Reasons of SPEC.md section 12.3 that this side finds by itself. */
export type ProblemReason =
  "bad_frames" | "bad_header" | "unknown_type" | "header_too_large" | "body_too_large" | "invalid_body";

/** `names` says what the message was about, as far as that could still be read. */
export class Problem extends Error {
  names: { job?: string; rid?: string; lease?: string } = {};

  constructor(
    readonly reason: ProblemReason,
    message: string,
  ) {
    super(message);
    this.name = "Problem";
  }

  /** The code that belongs to the reason. */
  get code(): string {
    if (this.reason === "header_too_large" || this.reason === "body_too_large") return "RESOURCE_EXHAUSTED";
    return this.reason === "unknown_type" ? "UNIMPLEMENTED" : "INVALID_ARGUMENT";
  }
}
