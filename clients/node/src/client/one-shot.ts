/**
 * One call over a REQ socket of its own, without a session (SPEC.md section 3.6): for short-lived processes. No stream, no
 * tools, no cancel at the broker; a `Client` is what everything else needs.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Request } from "zeromq";
import { resolveAddresses } from "../addresses.js";
import { monotonicMs } from "../alarm.js";
import { BrokerUnreachable, DeadlineExceeded, errorFrom, Internal } from "../errors.js";
import { uuid7 } from "../ids.js";
import { MAX_FRAME_BYTES } from "../link.js";
import { bodyPart } from "../protocol/body.js";
import { clientCodec } from "../protocol/codec.js";
import { Problem } from "../protocol/problem.js";
import { DEFAULT_ADDRESS } from "./client.js";
import type { Inputs } from "./map.js";
import { type JobOptions, submitEvent } from "./options.js";
import { type Outputs, Prediction } from "./prediction.js";

export type OnceOptions = Omit<
  JobOptions,
  "tools" | "window" | "onAccepted" | "onStarted" | "onProgress" | "onDisconnect" | "maxIters"
> & {
  /** The broker's clients' endpoint. Left out: the variable DSPYMQ_BROKER, else `tcp://127.0.0.1:5570`. */
  address?: string | undefined;
};

/** How much longer than the job's time its answer is waited for. */
const PATIENCE_MS = 10_000;
const PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 2_000;

const codec = clientCodec();

/**
 * Run a program and wait for its outputs. A lost connection is mended with another socket, and the same job.
 *
 * Rejects with a DspymqError, or with the reason of `signal`, which ends the wait: the job goes on to its end.
 */
export async function callOnce<O extends Outputs = Outputs>(
  program: string,
  inputs: Inputs,
  options: OnceOptions = {},
): Promise<Prediction<O>> {
  const { signal } = options;
  const [address = ""] = resolveAddresses(options.address, "DSPYMQ_BROKER", DEFAULT_ADDRESS);
  const opened = submitEvent(uuid7(), program, inputs, options);
  const { job } = opened.message;
  const deadlineMs = monotonicMs() + opened.timeoutMs;
  let wasSent = false;
  for (let tries = 0; ; tries += 1) {
    signal?.throwIfAborted();
    const message = { ...opened.message, timeout_ms: Math.max(1, deadlineMs - monotonicMs()) };
    const again = wasSent ? { known_epoch: "unknown" } : {};
    const answer = await exchange(address, codec.encode({ ...message, ...again }, opened.body), deadlineMs, signal);
    wasSent ||= answer.connected;
    let pauseMs = Math.min(LONGEST_PAUSE_MS, PAUSE_MS * 2 ** Math.min(tries, 8)) * (0.5 + 0.5 * Math.random());
    if (answer.frames !== undefined) {
      const found = read<O>(answer.frames, job);
      if (found instanceof Prediction) return found;
      if (!found.isRefusal || !found.error.retryable || found.error.reason === "no_worker") throw found.error;
      pauseMs = Math.max(pauseMs, found.error.retryAfterMs ?? 0);
      if (monotonicMs() + pauseMs >= deadlineMs) throw found.error;
    } else if (monotonicMs() + pauseMs >= deadlineMs) {
      if (!wasSent) throw new BrokerUnreachable(`no broker answered at ${address}`, { retryable: true, job });
      throw new DeadlineExceeded("no result in time (the broker did not answer)", {
        reason: "deadline",
        retryable: true,
        job,
      });
    }
    await sleep(pauseMs, undefined, signal === undefined ? {} : { signal }).catch(() => signal?.throwIfAborted());
  }
}

interface Exchange {
  /** Whether there was a connection: then the message may have arrived. */
  connected: boolean;
  /** The answer; undefined if none came, or the connection broke. */
  frames: Uint8Array[] | undefined;
}

/** Send one message and take one answer. Rejects with the signal's reason. */
async function exchange(
  address: string,
  frames: Uint8Array[],
  deadlineMs: number,
  signal: AbortSignal | undefined,
): Promise<Exchange> {
  const socket = new Request({ linger: 0, maxMessageSize: MAX_FRAME_BYTES });
  let connected = false;
  let giveUp: (() => void) | undefined;
  const lost = new Promise<undefined>((resolve) => {
    giveUp = () => resolve(undefined);
  });
  socket.events.on("handshake", () => {
    connected = true;
  });
  socket.events.on("disconnect", () => setTimeout(() => giveUp?.(), 20));
  const timer = setInterval(() => {
    if (monotonicMs() >= deadlineMs + (connected ? PATIENCE_MS : 0)) giveUp?.();
  }, 50);
  let abort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
  });
  try {
    socket.connect(address);
    const answer = socket.send(frames).then(() => socket.receive());
    // Closing the socket ends a wait that nobody is interested in any more.
    answer.catch(() => undefined);
    return { frames: await Promise.race([answer, lost, aborted]), connected };
  } finally {
    clearInterval(timer);
    if (abort !== undefined) signal?.removeEventListener("abort", abort);
    socket.close();
  }
}

function read<O extends Outputs>(
  frames: Uint8Array[],
  job: string,
): Prediction<O> | { error: ReturnType<typeof errorFrom>; isRefusal: boolean } {
  try {
    const { message, body } = codec.decode(frames);
    if (message.t === "error") return { error: errorFrom({ ...message, job }), isRefusal: true };
    if (message.t !== "result") throw new Problem("unknown_type", `a ${message.t} is no answer`);
    if (message.code !== "OK") return { error: errorFrom(message), isRefusal: false };
    return new Prediction(bodyPart(body, "outputs") as O, message);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return { error: new Internal(`bad answer: ${error.message}`, { reason: error.reason, job }), isRefusal: false };
  }
}
