/** A lease as the worker holds it: from its dispatch until the broker has its end. */
import { NO_BODY } from "../protocol/codec.js";
import type { Cause, Dispatch, Held, Released, Want, WorkerResult, WorkerStarted } from "../protocol/messages.js";
import type { Executor } from "./crew.js";

/**
 * - `waiting`: waits for an executor of its own
 * - `sent`: given to an executor, which has not said that it started
 * - `done`: has its result; held until the broker acknowledges it
 * - `released`: given back; held until the broker is known to have heard it
 */
export type LeaseState = "waiting" | "sent" | "running" | "done" | "released";

export class Lease {
  state: LeaseState = "waiting";
  executor: Executor | undefined;
  want: ReadonlySet<Want>;
  window: number | undefined;
  readonly deadlineMs: number;
  /** When something must happen: the deadline; once cancelled, the end of its grace. */
  dueMs: number;
  cancelCause: Cause | undefined;
  cancelledMs = 0;
  /** It ignored its cancel past the grace. */
  overdue = false;
  /** It alone is to blame for that: its executor's loop was alive. */
  evidence = false;
  /** The broker no longer knows it: it is being stopped, and nothing of it is sent. */
  dropped = false;
  started: WorkerStarted | undefined;
  /** The seq that the next chunk has. */
  seq = 0;
  /** Chunks were lost on the way: only a reset chunk goes on. */
  gap = false;
  end: WorkerResult | Released | undefined;
  endBody: Uint8Array = NO_BODY;
  /** The ping after which the broker is known to have heard `released`; 0 while it was not sent. */
  fence = 0;

  constructor(
    readonly dispatch: Dispatch,
    public body: Uint8Array,
    readonly takenMs: number,
  ) {
    this.want = new Set(dispatch.want);
    this.window = dispatch.window;
    this.deadlineMs = takenMs + dispatch.timeout_ms;
    this.dueMs = this.deadlineMs;
  }

  get id(): string {
    return this.dispatch.lease;
  }

  /** The kind of slot that it takes. */
  get lane(): string {
    return this.dispatch.lane;
  }

  /** Whether it still owes its end. */
  get isLive(): boolean {
    return this.state === "waiting" || this.isOnExecutor;
  }

  get isOnExecutor(): boolean {
    return this.state === "sent" || this.state === "running";
  }

  /** The dispatch with the time that is left, and with what is wanted by now. */
  forExecutor(nowMs: number): Dispatch {
    const made = { ...this.dispatch, timeout_ms: Math.max(0, this.deadlineMs - nowMs), want: [...this.want] };
    delete made.window;
    if (this.window !== undefined) made.window = this.window;
    return made;
  }

  /** Its entry in a page of `ready`. */
  held(nowMs: number): Held {
    const { lease, ns, job, attempt, digest, lane } = this.dispatch;
    const state = this.state === "done" ? "done" : "running";
    return {
      lease,
      ns,
      job,
      attempt,
      digest,
      state,
      lane,
      seq: this.seq,
      left_ms: Math.max(0, this.deadlineMs - nowMs),
    };
  }

  /** At most so much of a header is taken by its entry. */
  heldBytes(): number {
    const { lease, ns, job, digest, lane } = this.dispatch;
    return lease.length + 4 * ns.length + job.length + 4 * digest.length + 4 * lane.length + 120;
  }
}
