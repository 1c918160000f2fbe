/** The tool calls of one job, as its client knows them: each is run once, and answered as often as it comes. Pure. */
import { NO_BODY } from "../protocol/codec.js";
import type { Answer } from "./events.js";

/** Answers of a job that are kept, in case their calls come again; past it the oldest are given up. */
const KEPT_BYTES = 32 * 1024 * 1024;

const GIVEN_UP: Answer = {
  code: "DATA_LOSS",
  message: "the answer of this call is no longer kept",
  body: NO_BODY,
};

interface Call {
  readonly attempt: number;
  readonly call: number;
  readonly name: string;
  readonly content: Buffer;
  answer: Answer | undefined;
}

/**
 * A call is known by attempt and number, and by its content.
 *
 * The content counts because a broker that lost everything runs a job anew from attempt 1: the same numbers, but
 * perhaps other calls. Runs are numbered, so that a function that still works for a call that is void answers nothing.
 */
export class ToolLedger {
  private attempt = 0;
  private anew = false;
  private readonly calls = new Map<number, Call>();
  private readonly runs = new Map<number, Call>();
  private lastRun = 0;
  private keptBytes = 0;

  /** The job was sent again; with `anew`, to a broker that may know nothing of it and count from the start. */
  rejoin(anew: boolean): void {
    this.anew ||= anew;
  }

  /** A call came: its answer if there is one already, else what to do. A new one must be `begin`ned at once. */
  came(attempt: number, call: number, name: string, body: Uint8Array): Answer | "new" | "running" | "stale" {
    if (attempt < this.attempt && !this.anew) return "stale";
    this.anew = false;
    const known = attempt === this.attempt ? this.calls.get(call) : undefined;
    if (known === undefined || known.name !== name || !known.content.equals(body)) return "new";
    return known.answer ?? "running";
  }

  /** A new call is run: the number of the run, and whether all runs before it are void. */
  begin(attempt: number, call: number, name: string, body: Uint8Array): { run: number; voids: boolean } {
    const voids = this.calls.size > 0 && (attempt !== this.attempt || this.calls.has(call));
    if (voids) {
      this.calls.clear();
      this.runs.clear();
      this.keptBytes = 0;
    }
    this.attempt = attempt;
    this.lastRun += 1;
    const begun: Call = { attempt, call, name, content: Buffer.from(body), answer: undefined };
    this.calls.set(call, begun);
    this.runs.set(this.lastRun, begun);
    return { run: this.lastRun, voids };
  }

  /** A run has its answer: attempt and number of its call, or undefined if it is void. */
  answered(run: number, answer: Answer): { attempt: number; call: number } | undefined {
    const call = this.runs.get(run);
    if (call === undefined) return undefined;
    this.runs.delete(run);
    call.answer = answer;
    this.keptBytes += answer.body.length;
    this.giveUp(call);
    return { attempt: call.attempt, call: call.call };
  }

  private giveUp(newest: Call): void {
    if (this.keptBytes <= KEPT_BYTES) return;
    for (const call of this.calls.values()) {
      if (this.keptBytes <= KEPT_BYTES) return;
      if (call !== newest && call.answer !== undefined && call.answer.body.length > 0) {
        this.keptBytes -= call.answer.body.length;
        call.answer = GIVEN_UP;
      }
    }
  }
}
