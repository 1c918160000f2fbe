/**
 * The worker's decisions: `handle(event, nowMs)` returns what to do. No socket, clock, process or timer.
 *
 * The parts: `Crew` (which executors there are), `Work` (the leases), `LinkState` (what the broker was told); here they
 * are joined, and here a worker ends.
 */
import type { ToWorker } from "../protocol/messages.js";
import { Context, type WorkerSettings } from "./context.js";
import { Crew, type Executor } from "./crew.js";
import type { Lease } from "./lease.js";
import { LinkState } from "./link-state.js";
import type { Effect, FromExecutor, WorkerEvent } from "./messages.js";
import { Work } from "./work.js";

/** How long the deaths of killed executors are awaited at the end of a drain. */
const KILLED_MS = 2_000;

export class WorkerCore {
  private readonly context: Context;
  private readonly crew: Crew;
  private readonly link: LinkState;
  private readonly work: Work;
  /** When a drain's grace ends. */
  private drainMs: number | undefined;
  private drainBeganMs = 0;
  private exited = false;

  constructor(settings: WorkerSettings, random: () => number) {
    this.context = new Context(settings, random);
    const leases = new Map<string, Lease>();
    this.crew = new Crew(this.context);
    this.link = new LinkState(this.context, this.crew, leases);
    this.work = new Work(this.context, this.crew, this.link, leases);
  }

  /** What this event makes the worker do, in order. Times are of any clock that never goes back. */
  handle(event: WorkerEvent, nowMs: number): Effect[] {
    const { context } = this;
    context.nowMs = nowMs;
    context.effects = [];
    if (this.exited) return context.effects;
    this.take(event);
    if (event.type !== "tick" && context.alarmMs !== undefined && context.alarmMs <= nowMs) this.look();
    this.crew.ensure();
    this.work.place();
    this.link.reportIfDue();
    this.link.tellChanges();
    this.work.finishRound();
    if (context.closing && !this.exited) this.lookAtClosing();
    return context.effects;
  }

  /** When a tick is due, if nothing else happens before. */
  wakeAtMs(): number | undefined {
    return this.exited ? undefined : this.context.alarmMs;
  }

  /** Whether a broker waits for something that this worker holds. */
  get busy(): boolean {
    return this.work.leases.size > 0;
  }

  private take(event: WorkerEvent): void {
    switch (event.type) {
      case "start":
        break;
      case "tick":
        this.look();
        break;
      case "session-up":
        this.work.forgetFenced();
        this.link.sessionUp(event.welcome);
        break;
      case "session-down":
        this.link.sessionDown();
        break;
      case "own-stall":
        this.link.sessionDown();
        this.crew.forgiveSilence();
        break;
      case "congested":
        this.link.congested = event.blocked;
        if (!event.blocked && this.link.open) this.work.uncongested();
        break;
      case "from-broker":
        this.fromBroker(event.message, event.body);
        break;
      case "from-executor": {
        const executor = this.crew.executors.get(event.executor);
        if (executor !== undefined) this.fromExecutor(executor, event.message, event.body);
        break;
      }
      case "executor-started": {
        const executor = this.crew.executors.get(event.executor);
        if (executor !== undefined) this.crew.processStarted(executor, event.pid);
        break;
      }
      case "executor-gone": {
        const executor = this.crew.executors.get(event.executor);
        if (executor === undefined) break;
        this.crew.gone(executor, event.exit);
        this.crew.ensure();
        this.work.executorGone(executor, event.exit);
        break;
      }
      case "shutdown":
        if (this.context.closing) break;
        this.context.closing = true;
        this.crew.changed = true;
        this.beginDrain(this.context.settings.graceMs);
        break;
      case "stop-now":
        this.exit(false, "stopped at once");
        break;
    }
  }

  private fromBroker(message: ToWorker, body: Uint8Array): void {
    switch (message.t) {
      case "dispatch":
        if (!this.link.open) {
          // From before a stall of our own, or of a session that is over: it may run elsewhere by now.
          this.context.log("info", `worker.stale_dispatch lease=${message.lease}`);
          break;
        }
        // The broker sends nothing while it wants a drain: it has ended it.
        if (!this.context.closing) this.drainMs = undefined;
        this.work.dispatch(message, body);
        break;
      case "attach":
        this.work.attach(message);
        break;
      case "credit":
      case "tool_result":
        this.work.forward(message, body);
        break;
      case "cancel":
        this.work.cancel(message.lease, message.cause, message.grace_ms);
        break;
      case "ack":
        this.work.acknowledged(message.leases);
        break;
      case "synced": {
        const dropped = this.link.pageSynced(message.keep);
        for (const lease of dropped ?? []) this.work.drop(lease);
        if (dropped !== undefined && this.link.open) this.work.resume();
        break;
      }
      case "drain":
        this.beginDrain(message.grace_ms);
        break;
      case "pong":
        this.link.confirmed(message.n);
        this.work.confirmed(message.n);
        break;
      case "error":
        this.context.log(
          "warn",
          `broker.error code=${message.code} reason=${message.reason} lease=${message.lease ?? ""}`,
        );
        if (message.lease !== undefined) this.work.refused(message.lease, message.reason);
        break;
      default:
        break;
    }
  }

  private fromExecutor(executor: Executor, message: FromExecutor, body: Uint8Array): void {
    this.crew.heard(executor);
    switch (message.t) {
      case "started":
        this.work.started(executor, message);
        break;
      case "chunk":
        this.work.chunk(executor, message, body);
        break;
      case "progress":
        this.work.progress(executor, message, body);
        break;
      case "tool_call":
        this.work.toolCall(executor, message, body);
        break;
      case "result":
        this.work.result(executor, message, body);
        break;
      case "ready":
        this.crew.ready(executor);
        this.link.offer(message);
        this.work.executorReady(executor);
        break;
      case "failed":
        this.context.log("error", `worker.programs_failed ${message.message}`);
        if (!this.crew.everReady) this.exit(false, "the programs cannot be loaded");
        break;
      case "beat":
        break;
    }
  }

  private look(): void {
    this.context.alarmMs = undefined;
    this.crew.look();
    this.work.look();
    this.lookAtDrain();
  }

  private beginDrain(graceMs: number): void {
    const { context } = this;
    const dueMs = context.nowMs + graceMs;
    this.drainMs = this.drainMs === undefined ? dueMs : Math.min(dueMs, this.drainMs);
    this.drainBeganMs = context.nowMs;
    context.lookAt(this.drainMs);
    context.log("info", `worker.drain held=${this.work.leases.size} grace_ms=${graceMs} exits=${context.closing}`);
    this.work.giveBackUnstarted();
  }

  private lookAtDrain(): void {
    const { context } = this;
    if (this.drainMs === undefined) return;
    if (context.nowMs < this.drainMs) {
      context.lookAt(this.drainMs);
      return;
    }
    this.work.endDrained(this.drainBeganMs);
    if (context.closing) context.lookAt(this.drainMs + KILLED_MS);
    else this.drainMs = undefined;
  }

  private lookAtClosing(): void {
    const { nowMs } = this.context;
    const drainMs = this.drainMs ?? nowMs;
    const { leases } = this.work;
    const isGraceOver = nowMs >= drainMs;
    if (leases.size === 0 && (this.link.mayLeave() || isGraceOver)) {
      this.exit(true, "drained");
    } else if (isGraceOver && !this.link.open && ![...leases.values()].some((lease) => lease.isLive)) {
      this.exit(false, `no broker took what is held: lost=${leases.size}`);
    } else if (nowMs >= drainMs + KILLED_MS) {
      this.exit(false, `the grace is over: lost=${leases.size}`);
    }
  }

  private exit(isClean: boolean, why: string): void {
    const { context } = this;
    if (this.link.up) context.toBroker({ t: "bye", reason: "shutdown" });
    context.log("info", `worker.exit clean=${isClean} reason=${why}`);
    context.effects.push({ type: "exit", isClean });
    this.exited = true;
  }
}
