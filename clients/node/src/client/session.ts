/**
 * The client's session: hello and welcome, life, failover and backoff (SPEC.md sections 3 and 4). Pure.
 *
 * One pass tries the addresses in their order, each for a bounded time; between passes it waits, jittered and at most
 * BACKOFF_MAX_MS. Without work no session is looked for: the next job or request does that.
 */
import { DEFAULT_LIMITS, type ErrorMessage, type Hello, type Limits, type Welcome } from "../protocol/messages.js";
import type { Timers } from "../timers.js";
import type { Emit } from "./events.js";

const BACKOFF_MIN_MS = 50;
const BACKOFF_MAX_MS = 1_000;
/**
 * How long one address may take to say welcome: the minimum in the first pass, doubled with each, so that a second
 * address is soon tried and a slow broker is not given up for ever.
 */
const GREETING_MIN_MS = 1_000;
const GREETING_MAX_MS = 5_000;
/** A tick that comes so much late says that this process stood still ... */
const STALL_MS = 500;
/** ... and that the peer's silence proves nothing for so long: what it sent is read first. */
const SECOND_LOOK_MS = 1_000;

/** What a session tells its owner. */
export interface SessionHooks {
  /** Welcome came: what is open may be sent. */
  sessionUp(restarted: boolean): void;
  /** What was sent in the session may be lost. */
  sessionDown(): void;
  /** No address of the list takes this client, for good. */
  refused(error: ErrorMessage): void;
  /** Whether there is anything to wait for. */
  isBusy(): boolean;
}

type State = "idle" | "greeting" | "live" | "waiting" | "closed";

/** Timer keys are `life`, `greeting` and `reconnect`. `random` gives numbers in [0, 1). */
export class Session {
  state: State = "idle";
  epoch: string | undefined;
  limits: Limits = DEFAULT_LIMITS;
  lastFailure = "";
  private welcome: Welcome | undefined;
  private index = 0;
  private passes = 0;
  private fruitful = false;
  private refusals: ErrorMessage[] = [];
  private heardAt = 0;
  private sentAt = 0;
  private judgeFrom = 0;

  constructor(
    readonly addresses: readonly string[],
    private readonly hello: Hello,
    private readonly timers: Timers,
    private readonly hooks: SessionHooks,
    private readonly emit: Emit,
    private readonly random: () => number,
  ) {}

  /** Whether messages that need a session may be sent. */
  get live(): boolean {
    return this.state === "live";
  }

  /** The address in use, or tried last. */
  get address(): string {
    return this.addresses[this.index] ?? "";
  }

  /** There is work: connect, unless that is under way. */
  want(nowMs: number): void {
    if (this.state !== "idle") return;
    this.passes = 0;
    this.startPass(nowMs);
  }

  /** Something was sent. */
  sent(nowMs: number): void {
    this.sentAt = nowMs;
  }

  /** A message came; a fruitful one shows that this broker does more than greet. */
  heard(nowMs: number, fruitful: boolean): void {
    this.heardAt = nowMs;
    this.fruitful ||= fruitful;
  }

  welcomed(welcome: Welcome, nowMs: number): void {
    if (this.live && this.welcome?.session === welcome.session && this.epoch === welcome.epoch) return;
    if (this.state !== "greeting" && !this.live) return;
    const again = this.live;
    const restarted = this.epoch !== undefined && this.epoch !== welcome.epoch;
    this.state = "live";
    this.epoch = welcome.epoch;
    this.limits = welcome.limits;
    this.welcome = welcome;
    this.fruitful = false;
    this.timers.cancel("greeting");
    this.timers.set("life", nowMs + Math.min(welcome.ping_ms, welcome.dead_ms));
    this.emit({ type: "session-up", address: this.address, welcome, restarted });
    if (again) this.hooks.sessionDown();
    this.hooks.sessionUp(restarted);
  }

  /**
   * `no_session`: the broker does not know this session. Greet it again on this link.
   *
   * A storm of them, one for each message that was under way, costs one hello; a broker that greets and then still
   * does not know the session is left, with backoff.
   */
  unknown(nowMs: number): void {
    if (!this.live) return;
    if (!this.fruitful) {
      this.lost("the broker forgets its sessions", nowMs);
      return;
    }
    this.timers.cancel("life");
    this.emit({ type: "session-down", address: this.address, reason: "no_session" });
    this.hooks.sessionDown();
    this.greet(nowMs);
  }

  /** An `error` that answers hello. */
  notGreeted(error: ErrorMessage, nowMs: number): void {
    if (this.state !== "greeting") return;
    this.lastFailure = `${error.code}/${error.reason}: ${error.message}`;
    if (!error.retryable) this.refusals.push(error);
    this.failed(nowMs);
  }

  /** The link or the session is gone. */
  lost(reason: string, nowMs: number): void {
    if (this.state === "greeting") {
      this.lastFailure = reason;
      this.failed(nowMs);
    } else if (this.live) {
      this.lastFailure = reason;
      this.state = "waiting";
      this.timers.cancel("life");
      this.emit({ type: "session-down", address: this.address, reason });
      this.emit({ type: "disconnect", lingerMs: 0 });
      this.hooks.sessionDown();
      if (this.fruitful) {
        this.passes = 0;
        this.startPass(nowMs);
      } else {
        this.wait(nowMs);
      }
    }
  }

  /** Say bye, if there is anybody, and never connect again. */
  close(reason: string): void {
    if (this.live) {
      this.emit({ type: "send", message: { t: "bye", reason } });
      this.emit({ type: "disconnect", lingerMs: 500 });
    } else if (this.state === "greeting") {
      this.emit({ type: "disconnect", lingerMs: 0 });
    }
    this.state = "closed";
    for (const key of ["life", "greeting", "reconnect"]) this.timers.cancel(key);
  }

  /** The wait between two passes is over. */
  reconnectDue(nowMs: number): void {
    if (this.state === "waiting") this.startPass(nowMs);
  }

  /** No welcome in time. */
  greetingDue(nowMs: number): void {
    if (this.state !== "greeting") return;
    this.lastFailure = "no welcome in time";
    this.failed(nowMs);
  }

  /** Ping if nothing was sent for ping_ms; give the broker up if nothing came for dead_ms. */
  lifeDue(nowMs: number, lateMs: number): void {
    const welcome = this.welcome;
    if (!this.live || welcome === undefined) return;
    if (lateMs > STALL_MS) this.judgeFrom = nowMs + SECOND_LOOK_MS;
    const diesAt = Math.max(this.heardAt + welcome.dead_ms, this.judgeFrom);
    if (nowMs >= diesAt) {
      this.lost(`silent for ${nowMs - this.heardAt} ms`, nowMs);
      return;
    }
    if (nowMs - this.sentAt >= welcome.ping_ms) this.emit({ type: "send", message: { t: "ping", n: 0 } });
    this.timers.set("life", Math.min(diesAt, this.sentAt + welcome.ping_ms));
  }

  private startPass(nowMs: number): void {
    if (!this.hooks.isBusy()) {
      this.state = "idle";
      return;
    }
    this.index = 0;
    this.refusals = [];
    this.connect(nowMs);
  }

  private connect(nowMs: number): void {
    this.emit({ type: "connect", address: this.address });
    this.greet(nowMs);
  }

  private greet(nowMs: number): void {
    this.state = "greeting";
    this.emit({ type: "send", message: this.hello });
    this.sentAt = nowMs;
    const patienceMs = Math.min(GREETING_MAX_MS, GREETING_MIN_MS * 2 ** Math.min(this.passes, 8));
    this.timers.set("greeting", nowMs + patienceMs);
  }

  private failed(nowMs: number): void {
    this.timers.cancel("greeting");
    this.emit({ type: "disconnect", lingerMs: 0 });
    if (this.index + 1 < this.addresses.length) {
      this.index += 1;
      this.connect(nowMs);
      return;
    }
    const [refusal] = this.refusals;
    if (refusal !== undefined && this.refusals.length === this.addresses.length) {
      this.state = "idle";
      this.hooks.refused(refusal);
      return;
    }
    this.wait(nowMs);
  }

  private wait(nowMs: number): void {
    const longestMs = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(this.passes, 16));
    this.passes += 1;
    this.state = "waiting";
    this.timers.set("reconnect", nowMs + Math.floor(longestMs * (0.5 + 0.5 * this.random())));
  }
}
