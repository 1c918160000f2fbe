/** Feeds a client's core by hand, and shows what it sends and tells. */
import { ClientCore } from "../src/client/core.js";
import type { Input, Outcome, Output } from "../src/client/events.js";
import { encodeBody, type PlainMap } from "../src/protocol/body.js";
import { NO_BODY } from "../src/protocol/codec.js";
import { DEFAULT_LIMITS, type Submit, type ToClient, type Want } from "../src/protocol/messages.js";

export class Bench {
  now = 1_000;
  readonly core: ClientCore;
  readonly outcomes = new Map<string, Outcome>();

  constructor(addresses: string[] = ["tcp://a:1"], connectTimeoutMs?: number) {
    const patience = { connectTimeoutMs, deadlineSlackMs: 7_000 };
    this.core = new ClientCore({ addresses, name: "bench", patience }, () => 0);
  }

  feed(event: Input): Output[] {
    const outputs = this.core.handle(event, this.now);
    for (const output of outputs) if (output.type === "ended") this.outcomes.set(output.job, output.outcome);
    return outputs;
  }

  /** What the core sends on this event, as plain messages. */
  sends(event: Input): Record<string, any>[] {
    return messages(this.feed(event));
  }

  open(
    job: string,
    more: { want?: Want[]; window?: number; timeoutMs?: number; resume?: boolean } = {},
  ): Record<string, any>[] {
    const { want, window, timeoutMs = 60_000, resume = false } = more;
    const message: Submit = { t: "submit", job, program: "qa", timeout_ms: timeoutMs };
    if (want !== undefined) message.want = want;
    if (window !== undefined) message.window = window;
    return this.sends({ type: "open", message, body: encodeBody({ inputs: {} }), timeoutMs, resume });
  }

  hear(message: ToClient, body: PlainMap | Uint8Array = NO_BODY): Output[] {
    const octets = body instanceof Uint8Array ? body : encodeBody(body);
    return this.feed({ type: "received", message, body: octets });
  }

  welcome(epoch = "e1", session = "s1", pingMs = 10_000): Record<string, any>[] {
    const times = { ping_ms: pingMs, dead_ms: 3 * pingMs, adopt_ms: 5_000, orphan_ms: 60_000, retain_ms: 600_000 };
    return messages(this.hear({ t: "welcome", epoch, session, features: [], ...times, limits: DEFAULT_LIMITS }));
  }

  result(job: string, more: PlainMap = {}): Output[] {
    const { attempt = 1, code = "OK", chunks = 0, ...rest } = more;
    const fields = { t: "result", job, attempt, code, retryable: false, chunks, ...rest };
    return this.hear(fields as unknown as ToClient, code === "OK" ? { outputs: { answer: "4" } } : {});
  }

  refuse(job: string, reason: string, retryable: boolean, retryAfterMs?: number): Output[] {
    const error = { t: "error" as const, code: "UNAVAILABLE", reason, message: "", retryable, job };
    return this.hear(retryAfterMs === undefined ? error : { ...error, retry_after_ms: retryAfterMs });
  }

  /** The connection breaks, and the next one is open. */
  lose(): Output[] {
    const outputs = this.feed({ type: "link-down", reason: "test" });
    while (this.core.session.state === "waiting") outputs.push(...this.pass(1));
    return outputs;
  }

  /** Let time pass, tick by tick. */
  pass(ms: number): Output[] {
    const end = this.now + ms;
    const outputs: Output[] = [];
    for (let at = this.core.wakeAtMs(); at !== undefined && at <= end; at = this.core.wakeAtMs()) {
      this.now = Math.max(this.now, at);
      outputs.push(...this.feed({ type: "tick" }));
    }
    this.now = end;
    return outputs;
  }
}

export function messages(outputs: Output[]): Record<string, any>[] {
  return outputs.flatMap((output) => (output.type === "send" ? [output.message as Record<string, any>] : []));
}
