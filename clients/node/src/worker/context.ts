/** What the parts of the worker's core share: settings, time, the outgoing effects, and the next time to look. */
import { NO_BODY } from "../protocol/codec.js";
import { DEFAULT_LIMITS, type FromWorker, type Limits } from "../protocol/messages.js";
import type { Effect, LogLevel, ToExecutor } from "./messages.js";

/** The numbers of a worker; times are in milliseconds. */
export interface WorkerSettings {
  /** Unique for each start. */
  worker: string;
  /** For people. */
  name: string;
  /** Processes that run programs; 0: programs run in the worker's own process. */
  processes: number;
  /** Slots by lane, of each process. */
  slots: Readonly<Record<string, number>>;
  profiles: readonly string[];
  /** Bounds a drain, and how long a condemned executor may finish its other jobs. */
  graceMs: number;
  /** How long a job may take to end after its deadline. */
  cancelGraceMs: number;
  /** The silence after which an executor gets no jobs. */
  stallMs: number;
  startTimeoutMs: number;
  /** Plus the core's time it is Unix time. */
  wallOffsetMs: number;
}

/** Passed to every part of the core; nothing here decides. `random` gives numbers in [0, 1). */
export class Context {
  nowMs = 0;
  effects: Effect[] = [];
  limits: Limits = DEFAULT_LIMITS;
  /** Set by a shutdown: nothing new is started. */
  closing = false;
  /** The earliest time at which something may be due: never late, sometimes for nothing. */
  alarmMs: number | undefined;

  constructor(
    readonly settings: WorkerSettings,
    readonly random: () => number,
  ) {}

  /** Look again at this time, or earlier. */
  lookAt(ms: number): void {
    if (this.alarmMs === undefined || ms < this.alarmMs) this.alarmMs = ms;
  }

  toBroker(message: FromWorker, body: Uint8Array = NO_BODY): void {
    this.effects.push({ type: "to-broker", message, body });
  }

  toExecutor(executor: string, message: ToExecutor, body: Uint8Array = NO_BODY): void {
    this.effects.push({ type: "to-executor", executor, message, body });
  }

  log(level: LogLevel, text: string): void {
    this.effects.push({ type: "log", level, text });
  }
}
