/** The open requests of a client: sent again after a lost session, unless that could do something twice. Pure. */
import { DeadlineExceeded, type DspymqError, errorFrom, Internal, Unavailable } from "../errors.js";
import { decodeBody } from "../protocol/body.js";
import type { ErrorMessage, Reply } from "../protocol/messages.js";
import type { Timers } from "../timers.js";
import type { Emit, Input } from "./events.js";
import { unreachable } from "./jobs.js";
import type { Session } from "./session.js";

/** Methods that make something new each time they are called. */
const ONCE: ReadonlySet<string> = new Set(["jobs.retry"]);

interface Open {
  readonly rid: string;
  readonly method: string;
  readonly body: Uint8Array;
  readonly deadlineMs: number;
  sent: boolean;
  wasSent: boolean;
}

/** Timer keys are `request:RID`. */
export class RequestBook {
  private readonly open = new Map<string, Open>();

  constructor(
    private readonly session: Session,
    private readonly timers: Timers,
    private readonly emit: Emit,
    private readonly connectTimeoutMs: number | undefined,
  ) {}

  get size(): number {
    return this.open.size;
  }

  /** Take a request over. */
  ask(event: Extract<Input, { type: "ask" }>, nowMs: number): void {
    const { rid, method, body } = event;
    const entry = { rid, method, body, deadlineMs: nowMs + event.timeoutMs, sent: false, wasSent: false };
    this.open.set(rid, entry);
    let dueMs = entry.deadlineMs;
    if (!this.session.live && this.connectTimeoutMs !== undefined)
      dueMs = Math.min(dueMs, nowMs + this.connectTimeoutMs);
    this.timers.set(`request:${rid}`, dueMs);
    if (this.session.live) this.send(entry);
  }

  /** Nobody waits for it any more. */
  giveUp(rid: string): void {
    this.open.delete(rid);
    this.timers.cancel(`request:${rid}`);
  }

  /** Send what is open. */
  sessionUp(): void {
    for (const entry of this.open.values()) {
      if (!entry.sent) this.send(entry);
    }
  }

  /** What was sent has to be sent again, or fails if that could do it twice. */
  sessionDown(): void {
    for (const entry of [...this.open.values()]) {
      entry.sent = false;
      if (entry.wasSent && ONCE.has(entry.method)) {
        const text = `the session was lost; whether \`${entry.method}\` was done is not known`;
        this.end(entry, new Unavailable(text, { reason: "session_lost" }));
      }
    }
  }

  /** The answer to a request. */
  reply(message: Reply, body: Uint8Array): void {
    const entry = this.open.get(message.rid);
    if (entry === undefined) return;
    let value: unknown;
    try {
      value = decodeBody(body)["result"];
    } catch (error) {
      value = new Internal(`bad reply: ${(error as Error).message}`, { reason: "invalid_body" });
    }
    this.end(entry, value);
  }

  /** `error` named this request. */
  refused(error: ErrorMessage): void {
    this.fail(error.rid ?? "", errorFrom(error));
  }

  /** End one request with this error. */
  fail(rid: string, error: DspymqError): void {
    const entry = this.open.get(rid);
    if (entry !== undefined) this.end(entry, error);
  }

  /** End every request. */
  failAll(makeError: () => DspymqError): void {
    for (const entry of [...this.open.values()]) this.end(entry, makeError());
  }

  /** The time to reach a broker, or the timeout, has come. */
  due(rid: string, nowMs: number): void {
    const entry = this.open.get(rid);
    if (entry === undefined) return;
    if (!entry.wasSent && !this.session.live) {
      this.end(entry, unreachable(this.session));
    } else if (nowMs < entry.deadlineMs) {
      this.timers.set(`request:${rid}`, entry.deadlineMs);
    } else {
      const text = `\`${entry.method}\` was not answered in time by ${this.session.address}`;
      this.end(entry, new DeadlineExceeded(text, { reason: "deadline", retryable: true }));
    }
  }

  private send(entry: Open): void {
    entry.sent = entry.wasSent = true;
    this.emit({ type: "send", message: { t: "request", rid: entry.rid, method: entry.method }, body: entry.body });
  }

  private end(entry: Open, value: unknown): void {
    this.giveUp(entry.rid);
    this.emit({ type: "answered", rid: entry.rid, value });
  }
}
