/** The executors of a worker: which there are, which take jobs, and when another is started or one is killed. */
import type { ReleaseCause } from "../protocol/messages.js";
import type { Context } from "./context.js";
import type { Lease } from "./lease.js";

/** How long an executor that was told to exit may take. */
const BYE_MS = 2_000;
/** An executor that ends within this time, and never had a job, counts as one that could not start. */
const YOUNG_MS = 250;
const BACKOFF_MS = 200;
const MAX_BACKOFF_MS = 5_000;
/** So long after the last failed start the pauses begin small again. */
const FORGIVEN_MS = 30_000;

/**
 * - `condemned`: a job of it ignored its cancel: it gets no more, and is killed
 * - `leaving`: it was told to exit
 */
export type ExecutorState = "starting" | "ready" | "condemned" | "leaving";

/** What runs programs: a process, or (`isInline`) the worker's own. `isolated` ones run one job and are ended then. */
export class Executor {
  state: ExecutorState = "starting";
  pid: number | undefined;
  startedMs: number;
  readyMs: number | undefined;
  /** When it was last heard. */
  beatMs: number;
  stalled = false;
  readonly leases = new Map<string, Lease>();
  readonly used = new Map<string, number>();
  hadJobs = false;
  killMs: number | undefined;
  killed = false;
  /** Why it was killed, where that is not a crash of its own. */
  killedFor: ReleaseCause | undefined;

  constructor(
    readonly id: string,
    nowMs: number,
    readonly isolated: boolean,
    readonly isInline: boolean,
    readonly slots: Readonly<Record<string, number>>,
  ) {
    this.startedMs = this.beatMs = nowMs;
  }

  /** Whether its slots count as the worker's. */
  get takesJobs(): boolean {
    return this.state === "ready" && !this.stalled && !this.isolated && !this.killed;
  }

  /** Slots of the lane that are not taken. */
  free(lane: string): number {
    return (Object.hasOwn(this.slots, lane) ? (this.slots[lane] ?? 0) : 0) - (this.used.get(lane) ?? 0);
  }

  add(lease: Lease): void {
    this.leases.set(lease.id, lease);
    this.used.set(lease.lane, (this.used.get(lease.lane) ?? 0) + 1);
    this.hadJobs = true;
    lease.executor = this;
  }

  remove(lease: Lease): void {
    if (!this.leases.delete(lease.id)) return;
    this.used.set(lease.lane, (this.used.get(lease.lane) ?? 1) - 1);
    lease.executor = undefined;
  }

  /** Its entry in the body of `ready`; times are Unix time. */
  describe(wallOffsetMs: number): Record<string, unknown> {
    const isPlain = this.state === "ready";
    const state = isPlain ? (this.stalled ? "stalled" : this.isolated ? "isolated" : "ready") : this.state;
    return {
      id: this.id,
      pid: this.pid ?? null,
      state,
      slots: { ...this.slots },
      in_flight: this.leases.size,
      started_at_ms: this.startedMs + wallOffsetMs,
    };
  }
}

export class Crew {
  readonly executors = new Map<string, Executor>();
  everReady = false;
  /** What the worker offers, or shows, has changed. */
  changed = false;
  private numbers = 0;
  private failures = 0;
  private failedMs = 0;
  private notBeforeMs = 0;
  /** An executor may be missing. */
  private short = true;

  constructor(private readonly context: Context) {}

  /** Whether programs run in the worker's own process. */
  get isInline(): boolean {
    return this.context.settings.processes === 0;
  }

  /** The executor with the most free slots in the lane; undefined when all are taken. */
  choose(lane: string): Executor | undefined {
    let best: Executor | undefined;
    let most = 0;
    for (const executor of this.executors.values()) {
      const free = executor.free(lane);
      if (free > most && executor.takesJobs) {
        best = executor;
        most = free;
      }
    }
    return best;
  }

  /**
   * The slots as the broker must count them; a lane whose executors are all away stands with 0.
   *
   * The broker counts every lease that it knows against them. So a lease on an executor that takes no more jobs keeps
   * its slot until it ends, and one that the broker no longer counts takes its slot away until it is stopped.
   */
  slots(): Record<string, number> {
    const total: Record<string, number> = {};
    for (const lane of Object.keys(this.context.settings.slots)) total[lane] = 0;
    const add = (lane: string, n: number): void => {
      total[lane] = Math.max(0, (total[lane] ?? 0) + n);
    };
    for (const executor of this.executors.values()) {
      const { takesJobs } = executor;
      if (takesJobs) {
        for (const [lane, n] of Object.entries(executor.slots)) add(lane, n);
      } else if (executor.isolated) {
        continue;
      }
      for (const lease of executor.leases.values()) {
        const isCounted = !lease.dropped && lease.isLive;
        if (isCounted !== takesJobs) add(lease.lane, takesJobs ? -1 : 1);
      }
    }
    return total;
  }

  /** Start all executors that are missing, at once. */
  ensure(): void {
    const { context } = this;
    if (!this.short || context.closing) return;
    let serving = 0;
    for (const executor of this.executors.values()) {
      const serves = executor.state === "starting" || executor.state === "ready";
      if (serves && !executor.killed && !executor.isolated) serving += 1;
    }
    const missing = Math.max(1, context.settings.processes) - serving;
    if (missing > 0 && context.nowMs < this.notBeforeMs) {
      context.lookAt(this.notBeforeMs);
      return;
    }
    this.short = false;
    for (let n = 0; n < missing; n += 1) this.start(false);
  }

  /** Start what the waiting leases need, up to `processes` isolated executors in all. */
  startIsolated(waiting: number): void {
    const { context } = this;
    if (context.closing || this.isInline) return;
    const there = [...this.executors.values()].filter((executor) => executor.isolated);
    const coming = there.filter((executor) => executor.state === "starting" && !executor.killed).length;
    const wanted = Math.min(context.settings.processes - there.length, waiting - coming);
    if (wanted <= 0) return;
    if (context.nowMs < this.notBeforeMs) {
      context.lookAt(this.notBeforeMs);
      return;
    }
    for (let n = 0; n < wanted; n += 1) this.start(true);
  }

  processStarted(executor: Executor, pid: number): void {
    executor.pid = pid;
    executor.startedMs = executor.beatMs = this.context.nowMs;
  }

  /** The executor can take jobs. */
  ready(executor: Executor): void {
    executor.state = "ready";
    executor.readyMs = this.context.nowMs;
    this.everReady = true;
    this.changed = true;
  }

  /** Any message of an executor is a beat. */
  heard(executor: Executor): void {
    executor.beatMs = this.context.nowMs;
    if (executor.stalled) {
      executor.stalled = false;
      this.changed = true;
      this.context.log("info", `executor.recovered executor=${executor.id} pid=${executor.pid}`);
    }
  }

  /** A job of it ignored its cancel: replace it now, kill it when its other jobs are over or had their time. */
  condemn(executor: Executor, lease: Lease): void {
    if (executor.state === "condemned") return;
    const { context } = this;
    const why = `lease=${lease.id} in_flight=${executor.leases.size} reason=ignored_${lease.cancelCause}`;
    context.log("warn", `executor.condemned executor=${executor.id} pid=${executor.pid} ${why}`);
    executor.state = "condemned";
    this.short = true;
    executor.killMs = context.nowMs + context.settings.graceMs;
    context.lookAt(executor.killMs);
    this.changed = true;
  }

  /** Tell an executor that has no jobs to exit. */
  leave(executor: Executor): void {
    if (executor.state === "leaving") return;
    executor.state = "leaving";
    this.short = true;
    executor.killMs = this.context.nowMs + BYE_MS;
    this.context.lookAt(executor.killMs);
    this.context.toExecutor(executor.id, { t: "bye", reason: "done" });
    this.changed = true;
  }

  /** SIGKILL; its jobs are settled when it is gone. */
  kill(executor: Executor, cause: ReleaseCause | undefined): void {
    if (executor.killed) return;
    executor.killed = true;
    this.short = true;
    executor.killedFor = cause;
    executor.killMs = undefined;
    this.context.effects.push({ type: "kill-executor", executor: executor.id });
    this.changed = true;
  }

  /** Its process has ended; its leases are settled next. */
  gone(executor: Executor, exit: string): void {
    const { context } = this;
    this.executors.delete(executor.id);
    this.short = true;
    this.changed = true;
    const expected = executor.killed || executor.state === "leaving" || context.closing;
    if (!expected) {
      const what = `executor=${executor.id} pid=${executor.pid} exit=${exit} in_flight=${executor.leases.size}`;
      context.log("warn", `executor.died ${what}`);
    }
    const livedMs = executor.readyMs === undefined ? 0 : context.nowMs - executor.readyMs;
    const failed = !expected || executor.readyMs === undefined;
    if (failed && !executor.hadJobs && livedMs < YOUNG_MS) this.backOff();
  }

  /** Time passed: who is silent, who is to be killed. */
  look(): void {
    for (const executor of this.executors.values()) {
      if (executor.killed || executor.isInline) continue;
      if (executor.killMs !== undefined) this.lookAtLeaving(executor, executor.killMs);
      else if (executor.state === "starting") this.lookAtStarting(executor);
      else this.lookAtBeats(executor);
    }
  }

  /** The worker itself did not listen: nobody's silence counts. */
  forgiveSilence(): void {
    for (const executor of this.executors.values()) executor.beatMs = this.context.nowMs;
  }

  private start(isolated: boolean): void {
    const { context } = this;
    const { name, slots, startTimeoutMs } = context.settings;
    this.numbers += 1;
    const executor = new Executor(`${name}/${this.numbers}`, context.nowMs, isolated, this.isInline, slots);
    this.executors.set(executor.id, executor);
    context.effects.push({ type: "start-executor", executor: executor.id });
    context.lookAt(context.nowMs + startTimeoutMs);
    this.changed = true;
  }

  private backOff(): void {
    const { context } = this;
    if (context.nowMs < this.notBeforeMs) return;
    if (context.nowMs - this.failedMs > FORGIVEN_MS) this.failures = 0;
    this.failedMs = context.nowMs;
    const longest = Math.min(MAX_BACKOFF_MS, BACKOFF_MS * 2 ** Math.min(this.failures, 10));
    const pauseMs = Math.floor(longest * (0.5 + 0.5 * context.random()));
    this.failures += 1;
    this.notBeforeMs = context.nowMs + pauseMs;
    context.lookAt(this.notBeforeMs);
    const why = `reason=executors_end_before_ready failures=${this.failures}`;
    context.log("warn", `worker.backoff ${why} pause_ms=${pauseMs}`);
  }

  private lookAtLeaving(executor: Executor, killMs: number): void {
    if (this.context.nowMs >= killMs) {
      this.kill(executor, executor.state === "condemned" ? "stall" : executor.killedFor);
    } else {
      this.context.lookAt(killMs);
    }
  }

  private lookAtStarting(executor: Executor): void {
    const dueMs = executor.startedMs + this.context.settings.startTimeoutMs;
    if (this.context.nowMs < dueMs) {
      this.context.lookAt(dueMs);
      return;
    }
    this.context.log("error", `executor.start_timeout executor=${executor.id} pid=${executor.pid}`);
    this.kill(executor, undefined);
  }

  private lookAtBeats(executor: Executor): void {
    const { context } = this;
    const { stallMs } = context.settings;
    const silentMs = context.nowMs - executor.beatMs;
    if (silentMs < stallMs) {
      context.lookAt(executor.beatMs + stallMs);
      return;
    }
    if (!executor.stalled) {
      executor.stalled = true;
      this.changed = true;
      const what = `executor=${executor.id} pid=${executor.pid} silent_ms=${silentMs} in_flight=${executor.leases.size}`;
      context.log("warn", `executor.stalled ${what}`);
    }
    if (executor.leases.size > 0) return;
    // Nothing is lost with one that has no jobs, and no deadline would ever end it.
    if (silentMs >= 2 * stallMs) this.kill(executor, "stall");
    else context.lookAt(executor.beatMs + 2 * stallMs);
  }
}
