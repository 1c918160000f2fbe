import { hostname } from "node:os";
import { pathToFileURL } from "node:url";
import { isAbsolute, resolve as resolvePath } from "node:path";
import { resolveAddresses } from "../addresses.js";
import { Alarm, monotonicMs } from "../alarm.js";
import { InvalidArgument } from "../errors.js";
import { uuid7 } from "../ids.js";
import { type Link, zmqTransport } from "../link.js";
import { NO_BODY, workerCodec } from "../protocol/codec.js";
import { DEFAULT_LIMITS, type FromWorker, type Limits, type ToWorker } from "../protocol/messages.js";
import { Problem } from "../protocol/problem.js";
import { WorkerCore } from "./core.js";
import { ProgramRunner } from "./executor.js";
import type { Effect, LogLevel, WorkerEvent } from "./messages.js";
import { Processes } from "./processes.js";
import { makePrograms, type Program, type Programs } from "./programs.js";
import { type Step, WorkerSession } from "./session.js";

export interface WorkerOptions {
  /**
   * Where the brokers' workers' endpoints are, in the order in which they are tried. Left out: the variable
   * DSPYMQ_WORKER_BROKERS, else `tcp://127.0.0.1:5571`.
   */
  addresses?: string | readonly string[] | undefined;
  /** Who this is, for logs: 1 to 64 printable ASCII characters. */
  name?: string | undefined;
  /** The programs by name; with `processes` a module that exports them as `programs` or by default. */
  programs: Programs | URL | string;
  /**
   * Processes that run programs. 0 (the default): they run in this process. Then a program that does not yield stops
   * the worker from answering its broker, and one that ends the process ends the worker.
   */
  processes?: number | undefined;
  /** Jobs at a time, by lane: of each process. Default `{ default: 1 }`. */
  slots?: Record<string, number> | undefined;
  /** Language model profiles that a job may name. */
  profiles?: readonly string[] | undefined;
  /** How long a drain lets jobs end, before it gives them back. Default 10,000. */
  graceMs?: number | undefined;
  /** How long a job may take to end after its deadline, before its process is killed. Default 5,000. */
  cancelGraceMs?: number | undefined;
  /** The silence after which a process gets no jobs. Default 5,000. */
  stallMs?: number | undefined;
  /** Told what happens. Left out: warnings and errors go to stderr. */
  onLog?: ((level: LogLevel, text: string) => void) | undefined;
}

const DEFAULT_ADDRESS = "tcp://127.0.0.1:5571";
/** More than this unsent, and chunks and progress are not added. */
const MAX_WAITING_BYTES = 16 * 1024 * 1024;
/** Look at the clock at least so often: how else would one notice to have been stopped? */
const LOOK_MS = 250;
/** After a stop of its own, what waits in the socket is read until nothing came for so long. */
const QUIET_MS = 20;
const START_TIMEOUT_MS = 60_000;
const BEAT_MS = 1_000;

const codec = workerCodec();

/**
 * Runs plain functions for the jobs of a broker, beside other workers.
 *
 *     const worker = new Worker({ programs: { echo: ({ text }) => ({ text }) }, slots: { default: 8 } });
 *     await worker.run();   // until SIGTERM, and what it then takes to end
 *
 * It never ends because a broker is away: it goes on with what it has, keeps results until a broker has them, and
 * reports them to the next session.
 */
export class Worker {
  /** The broker addresses, in the order in which they are tried. */
  readonly addresses: readonly string[];
  /** Names this start of it. */
  readonly id = uuid7();
  readonly name: string;
  private readonly core: WorkerCore;
  private readonly session: WorkerSession;
  private readonly alarm: Alarm;
  private readonly runner: ProgramRunner | undefined;
  private readonly processes: Processes | undefined;
  private readonly onLog: (level: LogLevel, text: string) => void;
  private limits: Limits = DEFAULT_LIMITS;
  private link: Link | undefined;
  private linkNumber = 0;
  private lastClose: Promise<void> = Promise.resolve();
  private readonly pending: WorkerEvent[] = [];
  private handling = false;
  private congested = false;
  private lastLookMs = monotonicMs();
  private lastFrameMs = 0;
  private restarting = false;
  private exit: { isClean: boolean } | undefined;
  private running: Promise<boolean> | undefined;
  private tellExit: (isClean: boolean) => void = () => undefined;

  /** Throws InvalidArgument or TypeError, which say what is wrong. */
  constructor(options: WorkerOptions) {
    this.addresses = resolveAddresses(options.addresses, "DSPYMQ_WORKER_BROKERS", DEFAULT_ADDRESS);
    this.name = options.name ?? `node-${process.pid}@${hostname()}`.replace(/[^\x20-\x7e]/g, "?").slice(0, 64);
    if (!/^[\x20-\x7e]{1,64}$/.test(this.name)) {
      throw new InvalidArgument("`name` must be 1 to 64 printable ASCII characters", { reason: "invalid_option" });
    }
    this.onLog = options.onLog ?? logToStderr;
    const processes = whole(options.processes ?? 0, "processes", 0);
    const slots = options.slots ?? { default: 1 };
    for (const [lane, count] of Object.entries(slots)) whole(count, `slots.${lane}`, 0);
    const settings = {
      worker: this.id,
      name: this.name,
      processes,
      slots,
      profiles: options.profiles ?? [],
      graceMs: whole(options.graceMs ?? 10_000, "graceMs", 0),
      cancelGraceMs: whole(options.cancelGraceMs ?? 5_000, "cancelGraceMs", 0),
      stallMs: whole(options.stallMs ?? 5_000, "stallMs", 1),
      startTimeoutMs: START_TIMEOUT_MS,
      wallOffsetMs: Date.now() - monotonicMs(),
    };
    const config = { place: this.name, profiles: settings.profiles };
    if (processes > 0) {
      const module = moduleUrl(options.programs);
      this.processes = new Processes(
        { ...config, module, beatMs: Math.min(BEAT_MS, settings.stallMs / 3) },
        {
          started: (executor, pid) => this.handle({ type: "executor-started", executor, pid }),
          said: (executor, message, body) => this.handle({ type: "from-executor", executor, message, body }),
          gone: (executor, exit) => this.handle({ type: "executor-gone", executor, exit }),
        },
      );
    } else {
      const executor = `${this.name}/1`;
      this.runner = new ProgramRunner(ownPrograms(options.programs), config, (message, body) =>
        this.handle({ type: "from-executor", executor, message, body }),
      );
    }
    this.core = new WorkerCore(settings, Math.random);
    const hello = { t: "hello" as const, name: this.name, lang: "node", features: ["chunks", "tools"] };
    this.session = new WorkerSession(this.addresses, hello, Math.random);
    this.alarm = new Alarm(monotonicMs, () => this.ring());
  }

  /**
   * Serve jobs until `stop` was called, or the process got SIGTERM or SIGINT (`handleSignals: false` leaves these to
   * you), and the drain is over. A second signal ends it at once. Gives whether everything was settled.
   */
  run(options: { handleSignals?: boolean } = {}): Promise<boolean> {
    this.running ??= this.serve(options.handleSignals ?? true);
    return this.running;
  }

  /** Take no more jobs, let what runs end within the grace, give back the rest, and end. */
  stop(): void {
    this.handle({ type: "shutdown" });
  }

  /** End at once: what runs is run again elsewhere. */
  stopNow(): void {
    this.handle({ type: "stop-now" });
  }

  private async serve(handleSignals: boolean): Promise<boolean> {
    let asked = false;
    const onSignal = (): void => {
      if (asked) this.stopNow();
      else this.stop();
      asked = true;
    };
    const signals: NodeJS.Signals[] = handleSignals ? ["SIGTERM", "SIGINT"] : [];
    for (const signal of signals) process.on(signal, onSignal);
    try {
      const isClean = await new Promise<boolean>((resolve) => {
        this.tellExit = resolve;
        if (this.exit !== undefined) resolve(this.exit.isClean);
        this.lastLookMs = monotonicMs();
        this.handle({ type: "start" });
        this.ring();
      });
      this.alarm.stop();
      this.closeLink(500);
      await this.processes?.stop(isClean ? 1_000 : 0);
      await this.lastClose;
      return isClean;
    } finally {
      for (const signal of signals) process.off(signal, onSignal);
    }
  }

  private ring(): void {
    if (this.exit !== undefined) return;
    this.handle({ type: "tick" });
    if (this.exit === undefined && !this.restarting) this.step(this.session.tick(this.lastLookMs, this.core.busy));
    this.arm();
  }

  private arm(): void {
    if (this.exit !== undefined || this.running === undefined) return;
    const now = monotonicMs();
    const dueMs = Math.min(
      now + LOOK_MS,
      this.restarting ? Infinity : this.session.nextMs(),
      this.core.wakeAtMs() ?? Infinity,
    );
    // A core that wants to be looked at again in the past was looked at in this round already.
    this.alarm.set(Math.max(dueMs, now));
  }

  private handle(event: WorkerEvent): void {
    this.noticeStall();
    this.pending.push(event);
    if (this.handling) return;
    this.handling = true;
    try {
      for (let next = this.pending.shift(); next !== undefined; next = this.pending.shift()) {
        this.carryOut(next);
      }
    } finally {
      this.handling = false;
    }
    this.arm();
  }

  private carryOut(event: WorkerEvent): void {
    try {
      for (const effect of this.core.handle(event, this.lastLookMs)) this.perform(effect);
    } catch (error) {
      // A fault of ours in one event: the other jobs of the worker are worth more than a clean end.
      this.onLog("error", `worker.fault event=${event.type} ${(error as Error).stack}`);
    }
  }

  /** Whether this process was stopped for so long that the broker may have given it up. */
  private noticeStall(): void {
    const now = monotonicMs();
    const gapMs = now - this.lastLookMs;
    this.lastLookMs = now;
    if (gapMs <= this.session.stallMs || this.restarting || this.running === undefined) return;
    this.onLog("warn", `worker.own_stall stopped_ms=${gapMs}`);
    // Before whatever woke us: a dispatch that waited may run elsewhere by now.
    this.pending.push({ type: "own-stall" });
    this.restarting = true;
    this.lastFrameMs = now;
    const look = (): void => {
      if (this.exit !== undefined) return;
      if (monotonicMs() - this.lastFrameMs < QUIET_MS) {
        setTimeout(look, QUIET_MS);
        return;
      }
      this.restarting = false;
      this.step(this.session.restart(monotonicMs(), "own stall"));
      this.arm();
    };
    setTimeout(look, QUIET_MS);
  }

  private perform(effect: Effect): void {
    switch (effect.type) {
      case "to-broker":
        this.send(effect.message, effect.body);
        break;
      case "to-executor":
        if (this.runner !== undefined) this.runner.hear(effect.message, effect.body);
        else this.processes?.tell(effect.executor, effect.message, effect.body);
        break;
      case "start-executor":
        if (this.processes !== undefined) this.processes.start(effect.executor);
        else {
          this.pending.push({ type: "executor-started", executor: effect.executor, pid: process.pid });
          this.runner?.begin();
        }
        break;
      case "kill-executor":
        this.processes?.kill(effect.executor);
        break;
      case "log":
        this.onLog(effect.level, effect.text);
        break;
      case "exit":
        this.exit = { isClean: effect.isClean };
        this.tellExit(effect.isClean);
        break;
    }
  }

  /** Send in the session that is up; without one it is dropped: what matters is held and reported. */
  private send(message: FromWorker, body: Uint8Array): void {
    if (this.session.phase !== "up") return;
    try {
      const frames = codec.encode(message, body);
      const size = frames[1]?.length ?? 0;
      if (size > this.limits.max_header_bytes) throw new Problem("header_too_large", `the header has ${size} bytes`);
      this.put(frames);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.onLog("error", `link.unsendable type=${message.t} reason=${error.reason} text=${error.message}`);
      if (message.t !== "result") return;
      const { code, reason } = error;
      const refusal: ToWorker = {
        t: "error",
        code,
        reason,
        message: error.message,
        retryable: false,
        lease: message.lease,
      };
      this.pending.push({ type: "from-broker", message: refusal, body: NO_BODY });
    }
  }

  private put(frames: Uint8Array[]): void {
    const { link } = this;
    if (link === undefined) return;
    link.send(frames);
    if (!this.congested && link.waitingBytes > MAX_WAITING_BYTES) {
      this.congested = true;
      this.pending.push({ type: "congested", blocked: true });
    }
  }

  private step(steps: readonly Step[], body: Uint8Array = NO_BODY): void {
    for (const step of steps) {
      switch (step.type) {
        case "open":
          this.open(step.address);
          this.put(codec.encode(step.hello));
          break;
        case "close":
          this.closeLink(0);
          break;
        case "send":
          this.put(codec.encode(step.message));
          break;
        case "up":
          this.limits = step.welcome.limits;
          this.onLog("info", `broker.up address=${this.session.address} epoch=${step.welcome.epoch}`);
          this.handle({ type: "session-up", welcome: step.welcome });
          break;
        case "down":
          this.onLog("warn", `broker.down reason=${JSON.stringify(step.reason)}`);
          this.handle({ type: "session-down" });
          break;
        case "deliver":
          this.handle({ type: "from-broker", message: step.message, body });
          break;
      }
    }
  }

  private open(address: string): void {
    this.closeLink(0);
    const number = this.linkNumber;
    const isCurrent = (): boolean => number === this.linkNumber && this.exit === undefined;
    this.link = zmqTransport.open(address, {
      frames: (frames) => {
        if (isCurrent()) this.received(frames);
      },
      down: (reason) => {
        if (!isCurrent()) return;
        this.step(this.session.disconnected(monotonicMs(), reason, this.core.busy));
        this.arm();
      },
      drained: () => {
        if (!isCurrent() || !this.congested) return;
        this.congested = false;
        this.handle({ type: "congested", blocked: false });
      },
    });
  }

  private closeLink(lingerMs: number): void {
    const { link } = this;
    this.link = undefined;
    this.linkNumber += 1;
    this.congested = false;
    if (link !== undefined) this.lastClose = link.close(lingerMs);
  }

  private received(frames: Uint8Array[]): void {
    this.noticeStall();
    this.lastFrameMs = this.lastLookMs;
    let message: ToWorker | null = null;
    let body: Uint8Array = NO_BODY;
    try {
      ({ message, body } = codec.decode(frames));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.onLog("warn", `link.bad_message reason=${error.reason} text=${error.message}`);
    }
    if (this.restarting) {
      // Still of the session that may be lost: heard, for what it settles, and judged by a core that starts nothing.
      if (message !== null) this.handle({ type: "from-broker", message, body });
      return;
    }
    this.step(this.session.received(message, this.lastLookMs, this.core.busy), body);
    this.arm();
  }
}

function moduleUrl(programs: WorkerOptions["programs"]): string {
  if (programs instanceof URL) return programs.href;
  if (typeof programs !== "string") {
    const text = "with `processes`, `programs` is the URL of a module: new URL('./programs.js', import.meta.url)";
    throw new InvalidArgument(text, { reason: "invalid_option" });
  }
  if (/^[a-z]+:/.test(programs)) return programs;
  return pathToFileURL(isAbsolute(programs) ? programs : resolvePath(programs)).href;
}

function ownPrograms(programs: WorkerOptions["programs"]): Map<string, Program> {
  if (programs instanceof URL || typeof programs === "string") {
    throw new InvalidArgument("a module of programs needs `processes` above 0", { reason: "invalid_option" });
  }
  return makePrograms(programs);
}

function whole(value: number, name: string, least: number): number {
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new InvalidArgument(`\`${name}\` must be a whole number from ${least}, not ${value}`, {
    reason: "invalid_option",
  });
}

function logToStderr(level: LogLevel, text: string): void {
  if (level !== "info") process.stderr.write(`dspymq ${level} ${text}\n`);
}
