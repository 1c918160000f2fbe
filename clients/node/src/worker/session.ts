/**
 * The life of the connection to a broker, without the connection: hello to silence, failover, backoff.
 *
 * One session at a time, with the first of an ordered list of addresses that welcomes. A new socket for each attempt,
 * so that nothing of an old session can arrive in a new one.
 */
import type { FromWorker, Hello, ToWorker, Welcome } from "../protocol/messages.js";

/** An attempt that was not welcomed by then has failed. */
const WELCOME_MS = 2_000;
const BACKOFF_MS = 100;
/** The longest pause while leases are held, and without. */
const BUSY_BACKOFF_MS = 1_000;
const IDLE_BACKOFF_MS = 2_000;
/** Silence that ends a session, as long as no broker has said what it wants. */
const DEAD_MS = 3_000;
/** Numbers of the session's own pings begin here; those of the worker are smaller. */
const PROOFS = 2 ** 40;

export type Step =
  | { type: "open"; address: string; hello: Hello }
  | { type: "close" }
  | { type: "send"; message: FromWorker }
  | { type: "up"; welcome: Welcome }
  | { type: "down"; reason: string }
  | { type: "deliver"; message: ToWorker };

/** Times are in milliseconds; `random` gives numbers in [0, 1). */
export class WorkerSession {
  phase: "closed" | "opening" | "up" = "closed";
  /** Why the last attempt failed. */
  lastFailure = "";
  private index = 0;
  private failures = 0;
  /** Closed: when to try; opening: until when welcome must come. */
  private dueMs = 0;
  private heardMs = 0;
  private pingedMs = 0;
  /** What was said until then the broker has heard: it takes us for dead `deadMs` later at the earliest. */
  private provedMs = 0;
  /** When each ping was sent that has no answer yet, by its number. */
  private readonly asked = new Map<number, number>();
  private proofs = PROOFS;
  private pingMs = DEAD_MS / 3;
  private deadMs = DEAD_MS;

  constructor(
    private readonly addresses: readonly string[],
    private readonly hello: Hello,
    private readonly random: () => number,
  ) {}

  /** The broker of this, or the next, attempt. */
  get address(): string {
    return this.addresses[this.index] ?? "";
  }

  /** A pause of ours, or of the network, that may have cost the session. */
  get stallMs(): number {
    return this.deadMs - this.pingMs;
  }

  /** When `tick` is due. */
  nextMs(): number {
    if (this.phase !== "up") return this.dueMs;
    return Math.min(this.pingDueMs(), this.heardMs + this.deadMs);
  }

  /** Time passed. `busy`: leases are held, a broker is missed. */
  tick(nowMs: number, busy: boolean): Step[] {
    if (this.phase === "closed") return nowMs >= this.dueMs ? this.open(nowMs) : [];
    if (this.phase === "opening") return nowMs >= this.dueMs ? this.failed(nowMs, "no welcome came", busy) : [];
    if (nowMs - this.heardMs >= this.deadMs) return this.lost(nowMs, `silent for ${nowMs - this.heardMs} ms`);
    if (nowMs < this.pingDueMs()) return [];
    return [this.ask(nowMs)];
  }

  /** A message came on the socket that is open; null: one that cannot be read. */
  received(message: ToWorker | null, nowMs: number, busy: boolean): Step[] {
    const silentMs = nowMs - this.heardMs;
    this.heardMs = nowMs;
    // The connection was cut off, and the broker may have taken us for dead meanwhile: a dispatch that waited in the
    // network may run elsewhere.
    if (this.phase === "up" && silentMs > this.stallMs) return this.lost(nowMs, `silent for ${silentMs} ms until now`);
    if (message === null) return [];
    if (message.t === "ping") {
      return [{ type: "send", message: { t: "pong", n: message.n } }];
    }
    if (message.t === "pong" && message.n >= PROOFS) {
      this.provedMs = this.asked.get(message.n) ?? this.provedMs;
      this.asked.delete(message.n);
      return [];
    }
    if (this.phase === "opening") return this.whileOpening(message, nowMs, busy);
    if (this.phase !== "up" || message.t === "welcome") return [];
    if (message.t === "bye") return this.lost(nowMs, `bye ${message.reason}`);
    if (message.t === "error" && message.reason === "no_session") return this.lost(nowMs, message.reason);
    if (message.t === "dispatch" && nowMs - this.provedMs >= this.deadMs) {
      // We hear the broker, and cannot know that it hears us: what it gave us long ago may run elsewhere.
      return this.lost(nowMs, `not heard for ${nowMs - this.provedMs} ms`);
    }
    return [{ type: "deliver", message }];
  }

  /** The connection broke, or was refused. */
  disconnected(nowMs: number, reason: string, busy: boolean): Step[] {
    if (this.phase === "up") return this.lost(nowMs, reason);
    return this.phase === "opening" ? this.failed(nowMs, reason, busy) : [];
  }

  /** Begin anew at once, with the same broker. */
  restart(nowMs: number, reason: string): Step[] {
    if (this.phase === "closed") return [];
    const steps: Step[] = [{ type: "close" }];
    if (this.phase === "up") steps.push({ type: "down", reason });
    this.phase = "closed";
    return [...steps, ...this.open(nowMs)];
  }

  /** However much is said besides: a ping is proof that what was said before it was heard. */
  private pingDueMs(): number {
    return this.pingedMs + this.pingMs;
  }

  private ask(nowMs: number): Step {
    this.pingedMs = nowMs;
    this.proofs += 1;
    for (const [n, atMs] of this.asked) if (nowMs - atMs >= this.deadMs) this.asked.delete(n);
    this.asked.set(this.proofs, nowMs);
    return { type: "send", message: { t: "ping", n: this.proofs } };
  }

  private open(nowMs: number): Step[] {
    this.phase = "opening";
    this.dueMs = nowMs + WELCOME_MS;
    this.heardMs = this.provedMs = nowMs;
    this.asked.clear();
    return [{ type: "open", address: this.address, hello: this.hello }];
  }

  private whileOpening(message: ToWorker, nowMs: number, busy: boolean): Step[] {
    if (message.t === "welcome") {
      this.phase = "up";
      this.failures = 0;
      this.lastFailure = "";
      this.pingMs = message.ping_ms;
      this.deadMs = message.dead_ms;
      // Answered before anything is dispatched, which comes after `ready`.
      return [this.ask(nowMs), { type: "up", welcome: message }];
    }
    if (message.t === "error") return this.failed(nowMs, `refused: ${message.code} ${message.reason}`, busy);
    if (message.t === "bye") return this.failed(nowMs, `bye ${message.reason}`, busy);
    return [];
  }

  private lost(nowMs: number, reason: string): Step[] {
    this.phase = "closed";
    this.index = 0;
    this.failures = 0;
    // All workers lose a broker at the same moment, and should not come back at the same moment.
    this.dueMs = nowMs + Math.floor(BACKOFF_MS * this.random());
    return [{ type: "close" }, { type: "down", reason }];
  }

  private failed(nowMs: number, reason: string, busy: boolean): Step[] {
    this.phase = "closed";
    this.failures += 1;
    this.index = (this.index + 1) % this.addresses.length;
    let pauseMs = 0;
    if (this.index === 0) {
      const rounds = Math.floor(this.failures / this.addresses.length);
      const longest = busy ? BUSY_BACKOFF_MS : IDLE_BACKOFF_MS;
      pauseMs = Math.min(longest, BACKOFF_MS * 2 ** Math.min(rounds, 10)) * (0.5 + 0.5 * this.random());
    }
    this.dueMs = nowMs + Math.floor(pauseMs);
    this.lastFailure = reason;
    return [{ type: "close" }];
  }
}
