/**
 * The subscriptions of a client to its broker's events (SPEC.md section 10.4). Pure.
 *
 * A subscription lives in a session; here it is made anew in each. The first event after that says with `gap` that
 * some may have been missed.
 */
import { type DspymqError, errorFrom, Internal } from "../errors.js";
import { bodyPart, encodeBody, type PlainMap } from "../protocol/body.js";
import type { ErrorMessage, EventMessage, Reply } from "../protocol/messages.js";
import type { Emit } from "./events.js";
import type { Session } from "./session.js";

const PREFIX = "sub-";

interface Open {
  readonly kinds: readonly string[];
  sub: string | undefined;
  nextSeq: number;
  ready: boolean;
  gap: boolean;
}

/** `key` is the client's own name of a subscription, `sub` the broker's. */
export class SubscriptionBook {
  private readonly entries = new Map<string, Open>();
  private readonly bySub = new Map<string, string>();

  constructor(
    private readonly session: Session,
    private readonly emit: Emit,
  ) {}

  get size(): number {
    return this.entries.size;
  }

  /** Take a subscription over. */
  open(key: string, kinds: readonly string[]): void {
    this.entries.set(key, { kinds, sub: undefined, nextSeq: 0, ready: false, gap: false });
    if (this.session.live) this.send(key, kinds);
  }

  /** The caller wants no more of it. */
  close(key: string): void {
    const entry = this.entries.get(key);
    if (entry === undefined) return;
    this.entries.delete(key);
    if (entry.sub === undefined) return;
    this.bySub.delete(entry.sub);
    if (this.session.live) this.unsubscribe(key, entry.sub);
  }

  /** Subscribe anew. */
  sessionUp(): void {
    for (const [key, entry] of this.entries) this.send(key, entry.kinds);
  }

  /** What the broker had is gone with the session. */
  sessionDown(): void {
    this.bySub.clear();
    for (const entry of this.entries.values()) {
      entry.sub = undefined;
      entry.gap = entry.ready;
    }
  }

  /** Whether this was the answer to one of ours. */
  reply(message: Reply, body: Uint8Array): boolean {
    if (!message.rid.startsWith(PREFIX)) return false;
    const key = message.rid.slice(PREFIX.length);
    const sub = subOf(body);
    const entry = this.entries.get(key);
    if (entry === undefined) {
      // Closed here while it was being made there.
      if (sub !== undefined && this.session.live) this.unsubscribe(key, sub);
    } else if (sub === undefined) {
      this.end(key, new Internal("bad reply to events.subscribe", { reason: "invalid_body" }));
    } else {
      entry.sub = sub;
      entry.nextSeq = 0;
      this.bySub.set(sub, key);
      if (!entry.ready) {
        entry.ready = true;
        this.emit({ type: "subscribed", key });
      }
    }
    return true;
  }

  /** Whether this `error` named one of ours. */
  refused(error: ErrorMessage): boolean {
    const rid = error.rid ?? "";
    if (!rid.startsWith(PREFIX) && !rid.startsWith(`un${PREFIX}`)) return false;
    const key = rid.slice(PREFIX.length);
    if (this.entries.has(key) && rid.startsWith(PREFIX)) this.end(key, errorFrom(error));
    return true;
  }

  /** An event; those of a subscription that was closed here meanwhile are dropped. */
  event(message: EventMessage, body: Uint8Array): void {
    const key = this.bySub.get(message.sub);
    const entry = key === undefined ? undefined : this.entries.get(key);
    if (key === undefined || entry === undefined) return;
    let gap = entry.gap || message.seq !== entry.nextSeq;
    entry.gap = false;
    entry.nextSeq = message.seq + 1;
    let details: PlainMap = {};
    try {
      details = bodyPart(body, "event");
    } catch {
      gap = true;
    }
    this.emit({ type: "event", key, event: { kind: message.kind, atMs: message.at_ms, details, gap } });
  }

  /** End every subscription. */
  failAll(makeError: () => DspymqError): void {
    for (const key of [...this.entries.keys()]) this.end(key, makeError());
  }

  private send(key: string, kinds: readonly string[]): void {
    const body = encodeBody({ params: kinds.length > 0 ? { kinds } : {} });
    this.emit({ type: "send", message: { t: "request", rid: `${PREFIX}${key}`, method: "events.subscribe" }, body });
  }

  private unsubscribe(key: string, sub: string): void {
    const body = encodeBody({ params: { sub } });
    this.emit({
      type: "send",
      message: { t: "request", rid: `un${PREFIX}${key}`, method: "events.unsubscribe" },
      body,
    });
  }

  private end(key: string, error: DspymqError): void {
    const entry = this.entries.get(key);
    this.entries.delete(key);
    if (entry?.sub !== undefined) this.bySub.delete(entry.sub);
    this.emit({ type: "unsubscribed", key, error });
  }
}

function subOf(body: Uint8Array): string | undefined {
  try {
    const { sub } = bodyPart(body, "result");
    return typeof sub === "string" ? sub : undefined;
  } catch {
    return undefined;
  }
}
