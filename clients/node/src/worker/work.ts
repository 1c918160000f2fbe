/** The leases of a worker: given to executors, relayed, ended, held until the broker has their end. */
import { NO_BODY } from "../protocol/codec.js";
import type {
  Blame,
  Cause,
  Details,
  ReleaseCause,
  WorkerAttach,
  WorkerChunk,
  WorkerCredit,
  WorkerProgress,
  WorkerResult,
  WorkerStarted,
  WorkerToolCall,
  WorkerToolResult,
  Dispatch,
} from "../protocol/messages.js";
import type { Context } from "./context.js";
import type { Crew, Executor } from "./crew.js";
import { Lease } from "./lease.js";
import type { LinkState } from "./link-state.js";

/** A first cancel gives at least this much time, whatever the broker says: a process is at stake. */
const MIN_GRACE_MS = 1_000;

export class Work {
  /** Leases that wait for an executor; all of them run alone, or wait for one that does. */
  private waiting: Lease[] = [];
  private fenceDue = false;
  /** A dispatch was given back for want of room: its job comes here again only after another `ready`. */
  private bounced = false;

  constructor(
    private readonly context: Context,
    private readonly crew: Crew,
    private readonly link: LinkState,
    readonly leases: Map<string, Lease>,
  ) {}

  // -- from the broker ------------------------------------------------------------------------------------------------

  /** Take a job, or give it back at once. */
  dispatch(message: Dispatch, body: Uint8Array): void {
    if (this.leases.has(message.lease)) return;
    const { context } = this;
    const lease = new Lease(message, body, context.nowMs);
    this.leases.set(lease.id, lease);
    context.lookAt(lease.dueMs);
    if (context.closing) {
      this.release(lease, { started: false, cause: "drain" });
      return;
    }
    const executor = this.crew.choose(lease.lane);
    if (message.isolate || (executor?.isInline && this.waiting.length + this.alone(executor) > 0)) {
      this.waiting.push(lease);
      this.place();
    } else if (executor === undefined) {
      this.bounced = true;
      this.release(lease, { started: false, cause: "capacity" });
    } else {
      this.give(lease, executor);
    }
  }

  /** Another client, or the same again, follows this job. */
  attach(message: WorkerAttach): void {
    const lease = this.leases.get(message.lease);
    if (lease === undefined || !lease.isLive) return;
    lease.want = new Set(message.want);
    lease.window = message.window;
    if (lease.started !== undefined && lease.want.has("started") && this.link.open)
      this.context.toBroker(lease.started);
    this.attachExecutor(lease);
  }

  /** Pass on what the client of a lease says to its program. */
  forward(message: WorkerCredit | WorkerToolResult, body: Uint8Array): void {
    const executor = this.leases.get(message.lease)?.executor;
    if (executor !== undefined) this.context.toExecutor(executor.id, message, body);
  }

  /** Stop a lease; its executor answers with a result within the grace, or is condemned. */
  cancel(id: string, cause: Cause, graceMs: number): void {
    const lease = this.leases.get(id);
    if (lease === undefined || !lease.isLive) return;
    if (lease.state === "waiting") {
      this.forgetWaiting(lease);
      lease.cancelCause = cause;
      this.endUnstarted(lease, cause);
      return;
    }
    const { context } = this;
    const isFirst = lease.cancelCause === undefined;
    const dueMs = context.nowMs + (isFirst ? Math.max(graceMs, MIN_GRACE_MS) : graceMs);
    lease.dueMs = isFirst ? dueMs : Math.min(lease.dueMs, dueMs);
    context.lookAt(lease.dueMs);
    if (isFirst) lease.cancelledMs = context.nowMs;
    if (cause !== lease.cancelCause && lease.executor !== undefined) {
      lease.cancelCause = cause;
      context.toExecutor(lease.executor.id, { t: "cancel", lease: id, cause, grace_ms: graceMs });
    }
  }

  /** The broker has these results. */
  acknowledged(ids: readonly string[]): void {
    for (const id of ids) {
      if (this.leases.get(id)?.isLive === false) this.leases.delete(id);
    }
  }

  /** The broker has heard all that was sent before this ping. */
  confirmed(fence: number): void {
    for (const lease of [...this.leases.values()]) {
      if (lease.state === "released" && lease.fence > 0 && lease.fence <= fence) this.leases.delete(lease.id);
    }
  }

  /** The broker did not take a message of this lease; a result must arrive in some form. */
  refused(id: string, reason: string): void {
    const lease = this.leases.get(id);
    if (lease?.state !== "done" || lease.end?.t !== "result") return;
    if (lease.end.reason === "result_too_large" && lease.end.details === undefined) return;
    if (!["header_too_large", "body_too_large", "bad_header"].includes(reason)) return;
    lease.end = tooLarge(lease.end, `the broker refused the result: ${reason}`);
    lease.endBody = NO_BODY;
    this.sendEnd(lease);
  }

  /** The broker no longer knows this lease: stop it, forget it, send nothing. */
  drop(lease: Lease): void {
    lease.dropped = true;
    this.forgetWaiting(lease);
    if (lease.isOnExecutor) {
      this.crew.changed = true;
      this.cancel(lease.id, "fenced", this.context.settings.cancelGraceMs);
    } else {
      this.leases.delete(lease.id);
    }
  }

  /** Another session begins: what nobody waits for any more must not be taken over by another broker. */
  forgetFenced(): void {
    for (const lease of [...this.leases.values()]) {
      if (lease.cancelCause === "fenced" && !lease.dropped) this.drop(lease);
    }
  }

  /** Broker and worker agree again: send the ends that are held, and make streams whole. */
  resume(): void {
    for (const lease of [...this.leases.values()]) {
      if (lease.dropped) continue;
      if (!lease.isLive) {
        this.sendEnd(lease);
      } else if (lease.isOnExecutor) {
        if (lease.started !== undefined && lease.want.has("started")) this.context.toBroker(lease.started);
        if (lease.want.has("chunks") || lease.want.has("tools")) this.attachExecutor(lease);
      }
    }
    this.fenceIfDue();
  }

  /** The broker reads again: streams that lost chunks begin anew. */
  uncongested(): void {
    for (const lease of this.leases.values()) {
      if (lease.gap && lease.isOnExecutor) this.attachExecutor(lease);
    }
  }

  // -- from executors -------------------------------------------------------------------------------------------------

  /** The program runs. */
  started(executor: Executor, message: WorkerStarted): void {
    const lease = on(executor, message.lease);
    if (lease === undefined || lease.started !== undefined) return;
    lease.started = message;
    lease.state = "running";
    if (lease.want.has("started") && this.link.open && !lease.dropped) this.context.toBroker(message);
  }

  /** A piece of a stream. */
  chunk(executor: Executor, message: WorkerChunk, body: Uint8Array): void {
    const lease = on(executor, message.lease);
    if (lease === undefined) return;
    lease.seq = message.seq + 1;
    if (!lease.want.has("chunks") || lease.dropped) return;
    if (!this.link.flowing || body.length > this.context.limits.max_body_bytes) {
      lease.gap = true;
      return;
    }
    if (message.reset) lease.gap = false;
    if (!lease.gap) this.context.toBroker(message, body);
  }

  /** Lossy: what cannot be sent now is not sent. */
  progress(executor: Executor, message: WorkerProgress, body: Uint8Array): void {
    const lease = on(executor, message.lease);
    if (lease?.want.has("progress") && this.link.flowing && !lease.dropped) this.context.toBroker(message, body);
  }

  /** A program calls its client; a call that cannot be sent now comes again with the next attach. */
  toolCall(executor: Executor, message: WorkerToolCall, body: Uint8Array): void {
    const lease = on(executor, message.lease);
    if (lease === undefined || lease.dropped) return;
    const limit = this.context.limits.max_body_bytes;
    if (body.length > limit) {
      const { attempt, call } = message;
      const text = `the arguments have ${body.length} bytes, the limit is ${limit}`;
      const refusal = {
        t: "tool_result" as const,
        lease: lease.id,
        attempt,
        call,
        code: "RESOURCE_EXHAUSTED",
        message: text,
      };
      this.context.toExecutor(executor.id, refusal);
    } else if (this.link.open) {
      this.context.toBroker(message, body);
    }
  }

  /** The end of an attempt. */
  result(executor: Executor, message: WorkerResult, body: Uint8Array): void {
    const lease = executor.leases.get(message.lease);
    if (lease === undefined) return;
    this.leaveExecutor(lease, executor);
    if (lease.dropped) {
      this.leases.delete(lease.id);
      return;
    }
    // Given back by a drain while it still ran in this process.
    if (!lease.isOnExecutor) return;
    const limit = this.context.limits.max_body_bytes;
    if (body.length > limit) {
      const details = { bytes: body.length, max_body_bytes: limit };
      message = tooLarge(message, `the outputs have ${body.length} bytes, the limit is ${limit}`, details);
      body = NO_BODY;
    }
    this.end(lease, message, body);
  }

  /** An isolated executor takes the lease that waited longest, or is not needed any more. */
  executorReady(executor: Executor): void {
    if (!executor.isolated) {
      this.place();
      return;
    }
    const lease = this.waiting.shift();
    if (lease === undefined) this.crew.leave(executor);
    else this.give(lease, executor);
  }

  /** Its process has ended: every job on it is given back, with who is to blame. */
  executorGone(executor: Executor, exit: string): void {
    const leases = [...executor.leases.values()];
    const running = leases.filter((lease) => lease.state === "running");
    const convicted = running.some((lease) => lease.evidence);
    const details = { executor: executor.id, exit };
    for (const lease of leases) {
      const started = lease.state === "running";
      const cause = executor.killedFor ?? "crash";
      let blame: Blame = "none";
      if (started && cause !== "drain") blame = blameOf(lease, running.length === 1, convicted);
      executor.remove(lease);
      this.release(lease, { started, cause, blame, details });
    }
    if (executor.isolated && executor.state === "starting") {
      // One failed start gives one lease back: the broker may have a better place for it.
      const lease = this.waiting.shift();
      if (lease !== undefined) this.release(lease, { started: false, cause: "crash", details });
    }
  }

  // -- time -----------------------------------------------------------------------------------------------------------

  /** Time passed: deadlines, and cancels that were ignored. */
  look(): void {
    const { context } = this;
    for (const lease of [...this.leases.values()]) {
      if (!lease.isLive || lease.overdue) continue;
      if (lease.dueMs > context.nowMs) context.lookAt(lease.dueMs);
      else if (lease.cancelCause === undefined) this.cancel(lease.id, "deadline", context.settings.cancelGraceMs);
      else if (lease.executor !== undefined) this.ignoredCancel(lease, lease.executor);
    }
  }

  /** Find an executor for what waits. */
  place(): void {
    if (this.waiting.length === 0) return;
    if (!this.crew.isInline) {
      this.crew.startIsolated(this.waiting.length);
      return;
    }
    // In the worker's own process a job runs alone by waiting for the others to end, and by making others wait.
    for (let lease = this.waiting[0]; lease !== undefined; lease = this.waiting[0]) {
      const executor = this.crew.choose(lease.lane);
      if (executor === undefined || this.alone(executor) > 0) return;
      if (lease.dispatch.isolate && executor.leases.size > 0) return;
      this.waiting.shift();
      this.give(lease, executor);
    }
  }

  /** A drain begins: what has not been started need not be. */
  giveBackUnstarted(): void {
    for (const lease of this.waiting.splice(0)) this.release(lease, { started: false, cause: "drain" });
  }

  /** A drain's grace is over: give back what was dispatched before it began. */
  endDrained(beganMs: number): void {
    for (const executor of this.crew.executors.values()) {
      const old = [...executor.leases.values()].filter((lease) => lease.takenMs <= beganMs && lease.isLive);
      if (old.length === 0) continue;
      if (!executor.isInline) {
        this.crew.kill(executor, "drain");
        continue;
      }
      for (const lease of old) {
        const started = lease.state === "running";
        if (lease.dropped) continue;
        // It keeps its slot until it really ends.
        this.context.toExecutor(executor.id, { t: "cancel", lease: lease.id, cause: "fenced", grace_ms: 0 });
        this.crew.changed = true;
        this.release(lease, { started, cause: "drain" });
      }
    }
  }

  /** At the end of an event: ask for the proof that what was given back has been heard. */
  finishRound(): void {
    this.fenceIfDue();
  }

  // -- inside ---------------------------------------------------------------------------------------------------------

  private release(
    lease: Lease,
    how: { started: boolean; cause: ReleaseCause; blame?: Blame; details?: Details },
  ): void {
    if (lease.dropped || !this.leases.has(lease.id)) {
      this.leases.delete(lease.id);
      return;
    }
    if (lease.state === "done" || lease.state === "released") return;
    lease.state = "released";
    lease.body = NO_BODY;
    lease.end = { t: "released", lease: lease.id, blame: "none", ...how };
    this.sendEnd(lease);
  }

  private alone(executor: Executor): number {
    return [...executor.leases.values()].filter((lease) => lease.dispatch.isolate).length;
  }

  private give(lease: Lease, executor: Executor): void {
    lease.state = "sent";
    executor.add(lease);
    this.context.toExecutor(executor.id, lease.forExecutor(this.context.nowMs), lease.body);
    lease.body = NO_BODY;
  }

  /** Ask the program's stream to begin anew; what still comes of the old one is not sent. */
  private attachExecutor(lease: Lease): void {
    if (lease.executor === undefined) return;
    lease.gap = lease.want.has("chunks");
    const attach: WorkerAttach = { t: "attach", lease: lease.id, want: [...lease.want] };
    if (lease.window !== undefined) attach.window = lease.window;
    this.context.toExecutor(lease.executor.id, attach);
  }

  private leaveExecutor(lease: Lease, executor: Executor): void {
    const wasCounted = lease.isLive && !lease.dropped;
    executor.remove(lease);
    if (this.bounced || !wasCounted || !(executor.takesJobs || executor.isolated)) {
      this.bounced = false;
      this.crew.changed = true;
    }
    if (executor.state === "condemned") this.endCondemned(executor);
    else if (executor.isolated && executor.leases.size === 0) this.crew.leave(executor);
  }

  private ignoredCancel(lease: Lease, executor: Executor): void {
    lease.overdue = true;
    // A job in the worker's own process cannot be stopped against its will: its slot is gone until it ends.
    if (executor.isInline) {
      this.context.log("warn", `job.ignores_cancel lease=${lease.id} program=${lease.dispatch.program}`);
      return;
    }
    // While its executor's loop does not run at all, the job that stops it cannot be told from its neighbours.
    lease.evidence = executor.beatMs > lease.cancelledMs;
    this.crew.condemn(executor, lease);
    this.endCondemned(executor);
  }

  private endCondemned(executor: Executor): void {
    const leases = [...executor.leases.values()];
    if (leases.length === 0) this.crew.leave(executor);
    else if (leases.every((lease) => lease.overdue)) this.crew.kill(executor, "stall");
  }

  private endUnstarted(lease: Lease, cause: Cause): void {
    if (lease.dropped) {
      this.leases.delete(lease.id);
      return;
    }
    const isLate = cause === "deadline";
    const result: WorkerResult = {
      t: "result",
      lease: lease.id,
      attempt: lease.dispatch.attempt,
      code: isLate ? "DEADLINE_EXCEEDED" : "CANCELLED",
      reason: isLate ? "deadline" : "cancelled",
      message: "stopped before it was started",
      retryable: isLate,
      chunks: 0,
    };
    this.end(lease, result, NO_BODY);
  }

  private end(lease: Lease, message: WorkerResult, body: Uint8Array): void {
    lease.state = "done";
    lease.body = NO_BODY;
    lease.end = message;
    lease.endBody = body;
    this.sendEnd(lease);
  }

  private sendEnd(lease: Lease): void {
    if (!this.link.open || lease.end === undefined) return;
    // The broker must know of the slots that are gone before it fills those that come free.
    this.link.tellChanges();
    if (lease.state === "released") {
      lease.fence = this.link.nextFence();
      this.fenceDue = true;
    }
    this.context.toBroker(lease.end, lease.endBody);
  }

  private fenceIfDue(): void {
    if (!this.fenceDue || !this.link.open) return;
    this.fenceDue = false;
    this.link.sendFence();
  }

  private forgetWaiting(lease: Lease): void {
    this.waiting = this.waiting.filter((each) => each !== lease);
  }
}

/** The lease, as long as it is live on this executor. */
function on(executor: Executor, id: string): Lease | undefined {
  const lease = executor.leases.get(id);
  return lease?.isLive ? lease : undefined;
}

/** Who ended the process: what the worker saw goes before what it can only guess. */
function blameOf(lease: Lease, alone: boolean, convicted: boolean): Blame {
  if (convicted) return lease.evidence ? "self" : "none";
  return alone ? "self" : "shared";
}

function tooLarge(result: WorkerResult, message: string, details?: Details): WorkerResult {
  const made: WorkerResult = {
    ...result,
    code: "RESOURCE_EXHAUSTED",
    reason: "result_too_large",
    message,
    retryable: false,
  };
  delete made.retry_after_ms;
  delete made.details;
  if (details !== undefined) made.details = details;
  return made;
}
