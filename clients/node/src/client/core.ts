/**
 * The client as a state machine: `handle(event, nowMs)` gives what has to be done. No socket, clock or randomness.
 *
 * `Session` knows the broker, `JobBook` the open jobs, `RequestBook` the open requests, `SubscriptionBook` the events;
 * this class shares the timers among them and hands each message to whom it concerns. Whatever drives it only does as
 * told, so that every race is a list of events.
 */
import { ClientClosed, errorFrom, Internal } from "../errors.js";
import type { ErrorMessage, ToClient } from "../protocol/messages.js";
import type { Problem } from "../protocol/problem.js";
import { Timers } from "../timers.js";
import type { Input, Output } from "./events.js";
import { JobBook, type Patience } from "./jobs.js";
import { RequestBook } from "./requests.js";
import { Session, type SessionHooks } from "./session.js";
import { SubscriptionBook } from "./subscriptions.js";

/** What a client is: its name (for logs and fairness), where its brokers are, how patient it is. */
export interface CoreConfig {
  addresses: readonly string[];
  name: string;
  auth?: string | undefined;
  patience: Patience;
}

/** Messages that do not show that a broker does more than greet. */
const FRUITLESS: ReadonlySet<string> = new Set(["welcome", "error", "bye", "ping"]);

/** `random` gives numbers in [0, 1), for jitter only. Times are milliseconds of any clock that never goes back. */
export class ClientCore implements SessionHooks {
  readonly session: Session;
  private readonly jobs: JobBook;
  private readonly requests: RequestBook;
  private readonly subscriptions: SubscriptionBook;
  private readonly timers = new Timers();
  private outputs: Output[] = [];
  private nowMs = 0;
  private closed = false;

  constructor(config: CoreConfig, random: () => number) {
    const emit = (output: Output): void => {
      if (output.type === "send") this.session.sent(this.nowMs);
      this.outputs.push(output);
    };
    const hello = {
      t: "hello" as const,
      name: config.name,
      lang: "node",
      features: ["ack"],
      ...(config.auth === undefined ? {} : { auth: config.auth }),
    };
    this.session = new Session(config.addresses, hello, this.timers, this, emit, random);
    this.jobs = new JobBook(this.session, this.timers, emit, random, config.patience);
    this.requests = new RequestBook(this.session, this.timers, emit, config.patience.connectTimeoutMs);
    this.subscriptions = new SubscriptionBook(this.session, emit);
  }

  /** Take one event in; returns what must be done, in order. Never throws for what a broker sent. */
  handle(event: Input, nowMs: number): Output[] {
    this.nowMs = nowMs;
    this.take(event);
    const { outputs } = this;
    this.outputs = [];
    return outputs;
  }

  /** When the next tick is due. */
  wakeAtMs(): number | undefined {
    return this.timers.nextAt();
  }

  // What the session tells.

  sessionUp(restarted: boolean): void {
    if (restarted) this.jobs.forgetAcks();
    this.jobs.sessionUp(this.nowMs);
    this.requests.sessionUp();
    this.subscriptions.sessionUp();
    this.jobs.flushAcks();
  }

  sessionDown(): void {
    this.jobs.sessionDown();
    this.requests.sessionDown();
    this.subscriptions.sessionDown();
  }

  refused(error: ErrorMessage): void {
    this.jobs.failAll((job) => errorFrom({ ...error, job }));
    this.requests.failAll(() => errorFrom(error));
    this.subscriptions.failAll(() => errorFrom(error));
  }

  isBusy(): boolean {
    return this.jobs.size > 0 || this.requests.size > 0 || this.subscriptions.size > 0;
  }

  private take(event: Input): void {
    switch (event.type) {
      case "received":
        this.receive(event.message, event.body);
        break;
      case "open":
        if (this.closed)
          this.outputs.push({ type: "ended", job: event.message.job, outcome: closed(event.message.job) });
        else this.jobs.open(event, this.nowMs);
        break;
      case "cancel":
        this.jobs.cancel(event.job, this.nowMs);
        break;
      case "read":
        this.jobs.read(event.job, event.attempt, event.seq);
        break;
      case "answer-tool":
        this.jobs.toolAnswered(event.job, event.run, event.answer);
        break;
      case "ask":
        if (this.closed) this.outputs.push({ type: "answered", rid: event.rid, value: closed() });
        else this.requests.ask(event, this.nowMs);
        break;
      case "give-up":
        this.requests.giveUp(event.rid);
        break;
      case "subscribe":
        if (this.closed) this.outputs.push({ type: "unsubscribed", key: event.key, error: closed() });
        else this.subscriptions.open(event.key, event.kinds);
        break;
      case "unsubscribe":
        this.subscriptions.close(event.key);
        break;
      case "close":
        this.close();
        break;
      case "garbled":
        this.garbled(event.problem);
        break;
      case "link-down":
        this.session.lost(event.reason, this.nowMs);
        break;
      case "tick":
        this.tick();
        break;
    }
    if (!this.closed && this.session.state === "idle" && this.isBusy()) this.session.want(this.nowMs);
  }

  private receive(message: ToClient, body: Uint8Array): void {
    this.session.heard(this.nowMs, !FRUITLESS.has(message.t));
    switch (message.t) {
      case "result":
        this.jobs.result(message, body, this.nowMs);
        break;
      case "chunk":
        this.jobs.chunk(message, body);
        break;
      case "tool_call":
        this.jobs.toolCall(message, body);
        break;
      case "accepted":
      case "started":
      case "progress":
        this.jobs.updated(message);
        break;
      case "event":
        this.subscriptions.event(message, body);
        break;
      case "reply":
        if (!this.subscriptions.reply(message, body)) this.requests.reply(message, body);
        break;
      case "ping":
        this.session.sent(this.nowMs);
        this.outputs.push({ type: "send", message: { t: "pong", n: message.n } });
        break;
      case "welcome":
        this.session.welcomed(message, this.nowMs);
        break;
      case "error":
        this.error(message);
        break;
      case "bye":
        this.session.lost(`bye: ${message.reason}`, this.nowMs);
        break;
      default:
        // pong, and what only clients send: that the broker lives is all that they say.
        break;
    }
  }

  private error(error: ErrorMessage): void {
    if (error.reason === "no_session") this.session.unknown(this.nowMs);
    else if (error.job !== undefined) this.jobs.refused(error, this.nowMs);
    else if (error.rid !== undefined) {
      if (!this.subscriptions.refused(error)) this.requests.refused(error);
    } else if (!this.session.live) this.session.notGreeted(error, this.nowMs);
  }

  private garbled(problem: Problem): void {
    this.session.heard(this.nowMs, false);
    if (problem.reason === "unknown_type") return;
    const text = `the broker sent a message that cannot be read: ${problem.message}`;
    const { job, rid } = problem.names;
    if (job !== undefined) this.jobs.fail(job, () => new Internal(text, { reason: problem.reason, job }));
    else if (rid !== undefined) this.requests.fail(rid, new Internal(text, { reason: problem.reason }));
  }

  private close(): void {
    if (this.closed) return;
    this.closed = true;
    this.jobs.flushAcks();
    this.session.close("closed by its user");
    this.jobs.failAll(closed);
    this.requests.failAll(() => closed());
    this.subscriptions.failAll(() => closed());
  }

  private tick(): void {
    const dueAt = this.timers.nextAt();
    const lateMs = dueAt === undefined ? 0 : Math.max(0, this.nowMs - dueAt);
    for (let key = this.timers.popDue(this.nowMs); key !== undefined; key = this.timers.popDue(this.nowMs)) {
      this.due(key, lateMs);
    }
  }

  private due(key: string, lateMs: number): void {
    const split = key.indexOf(":");
    const kind = split < 0 ? key : key.slice(0, split);
    const name = key.slice(split + 1);
    if (kind === "job") this.jobs.jobDue(name, this.nowMs);
    else if (kind === "retry") this.jobs.retryDue(name, this.nowMs);
    else if (kind === "request") this.requests.due(name, this.nowMs);
    else if (kind === "acks") this.jobs.flushAcks();
    else if (kind === "life") this.session.lifeDue(this.nowMs, lateMs);
    else if (kind === "greeting") this.session.greetingDue(this.nowMs);
    else this.session.reconnectDue(this.nowMs);
  }
}

function closed(job?: string): ClientClosed {
  const text = job === undefined ? "the client is closed" : "the client was closed while this job was open";
  return new ClientClosed(text, { job });
}
