/** What passes between the worker's core and the executors that run programs, and between core and driver. */
import type { PlainMap } from "../protocol/body.js";
import type {
  Bye,
  Dispatch,
  FromWorker,
  ToWorker,
  Welcome,
  WorkerAttach,
  WorkerCancel,
  WorkerChunk,
  WorkerCredit,
  WorkerProgress,
  WorkerResult,
  WorkerStarted,
  WorkerToolCall,
  WorkerToolResult,
} from "../protocol/messages.js";

/** One program as it is offered. */
export interface Offer {
  name: string;
  revision: string;
}

/** The programs are loaded. */
export interface ExecutorReady {
  t: "ready";
  programs: Offer[];
  descriptions: PlainMap;
}

/** What an executor says. */
export type FromExecutor =
  | WorkerStarted
  | WorkerChunk
  | WorkerProgress
  | WorkerToolCall
  | WorkerResult
  | ExecutorReady
  | { t: "beat" }
  | { t: "failed"; message: string };

/** What an executor is told. */
export type ToExecutor = Dispatch | WorkerAttach | WorkerCredit | WorkerToolResult | WorkerCancel | Bye;

export type LogLevel = "info" | "warn" | "error";

/** What goes into the core. */
export type WorkerEvent =
  | { type: "start" }
  | { type: "tick" }
  | { type: "session-up"; welcome: Welcome }
  | { type: "session-down" }
  | { type: "own-stall" }
  | { type: "congested"; blocked: boolean }
  | { type: "from-broker"; message: ToWorker; body: Uint8Array }
  | { type: "executor-started"; executor: string; pid: number }
  | { type: "from-executor"; executor: string; message: FromExecutor; body: Uint8Array }
  | { type: "executor-gone"; executor: string; exit: string }
  | { type: "shutdown" }
  | { type: "stop-now" };

/** What comes out of it. */
export type Effect =
  | { type: "to-broker"; message: FromWorker; body: Uint8Array }
  | { type: "to-executor"; executor: string; message: ToExecutor; body: Uint8Array }
  | { type: "start-executor"; executor: string }
  | { type: "kill-executor"; executor: string }
  | { type: "log"; level: LogLevel; text: string }
  | { type: "exit"; isClean: boolean };
