/** What goes into the client's core, and what comes out of it. */
import type { DspymqError } from "../errors.js";
import type {
  Accepted,
  Attach,
  FromClient,
  Progress,
  Started,
  Submit,
  ToClient,
  Welcome,
} from "../protocol/messages.js";
import type { Problem } from "../protocol/problem.js";
import type { Prediction } from "./prediction.js";

/** A piece of the text of one output field. */
export interface Chunk {
  /** The output field; empty when a reset brings no text. */
  readonly field: string;
  readonly text: string;
  /**
   * Everything received before, of every field, is void: discard it, then take this text. That happens when the job is
   * run again (another `attempt`), when the client had to attach to it again, and when a piece was lost on the way.
   */
  readonly reset: boolean;
  readonly attempt: number;
  readonly seq: number;
}

/** Something that happened at the broker (SPEC.md section 10.4). */
export interface BrokerEvent {
  /** Such as `job.done`. */
  readonly kind: string;
  /** Unix time. */
  readonly atMs: number;
  readonly details: Record<string, any>;
  /** Events before this one may have been missed. */
  readonly gap: boolean;
}

/** The content of a `tool_result`. */
export interface Answer {
  readonly code: string;
  readonly message?: string | undefined;
  readonly body: Uint8Array;
}

export type Input =
  | {
      type: "open";
      message: Submit | Attach;
      body: Uint8Array;
      timeoutMs: number;
      resume: boolean;
      headerBytes?: number;
    }
  | { type: "cancel"; job: string }
  | { type: "read"; job: string; attempt: number; seq: number }
  | { type: "answer-tool"; job: string; run: number; answer: Answer }
  | { type: "ask"; rid: string; method: string; body: Uint8Array; timeoutMs: number }
  | { type: "give-up"; rid: string }
  | { type: "subscribe"; key: string; kinds: readonly string[] }
  | { type: "unsubscribe"; key: string }
  | { type: "close" }
  | { type: "received"; message: ToClient; body: Uint8Array }
  | { type: "garbled"; problem: Problem }
  | { type: "link-down"; reason: string }
  | { type: "tick" };

export type OpenJob = Extract<Input, { type: "open" }>;
export type Outcome = Prediction | DspymqError;

export type Output =
  | { type: "connect"; address: string }
  | { type: "disconnect"; lingerMs: number }
  | { type: "send"; message: FromClient; body?: Uint8Array }
  | { type: "session-up"; address: string; welcome: Welcome; restarted: boolean }
  | { type: "session-down"; address: string; reason: string }
  | { type: "ended"; job: string; outcome: Outcome }
  | { type: "text"; job: string; chunks: readonly Chunk[] }
  | { type: "updated"; job: string; message: Accepted | Started | Progress }
  | { type: "tool-called"; job: string; run: number; name: string; body: Uint8Array; timeoutMs: number }
  | { type: "tools-void"; job: string }
  | { type: "answered"; rid: string; value: unknown }
  | { type: "subscribed"; key: string }
  | { type: "event"; key: string; event: BrokerEvent }
  | { type: "unsubscribed"; key: string; error: DspymqError };

export type Emit = (output: Output) => void;
