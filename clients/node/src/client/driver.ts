/** Drives a ClientCore: feeds it events, does what it says, wakes it in time. No decision is made here. */
import { Alarm, monotonicMs, throwLater } from "../alarm.js";
import { AlreadyExists, DspymqError } from "../errors.js";
import type { Link, Transport } from "../link.js";
import { encodeBody } from "../protocol/body.js";
import { clientCodec } from "../protocol/codec.js";
import type { Accepted, Progress, Started, ToClient } from "../protocol/messages.js";
import { Problem } from "../protocol/problem.js";
import type { ClientCore } from "./core.js";
import type { BrokerEvent, Chunk, Input, OpenJob, Outcome, Output } from "./events.js";

export type ToolCalled = Extract<Output, { type: "tool-called" }>;

/** What a job's news are given to. */
export interface JobHandle {
  readonly id: string;
  updated(message: Accepted | Started | Progress): void;
  text(chunks: readonly Chunk[]): void;
  toolCalled(called: ToolCalled): void;
  toolsVoid(): void;
  ended(outcome: Outcome): void;
}

/** What a subscription's events are given to. */
export interface EventsHandle {
  subscribed(): void;
  event(event: BrokerEvent): void;
  unsubscribed(error: DspymqError): void;
}

const codec = clientCodec();

export class Driver {
  private readonly alarm: Alarm;
  private readonly jobs = new Map<string, JobHandle>();
  private readonly subscriptions = new Map<string, EventsHandle>();
  private readonly answers = new Map<string, (value: unknown) => void>();
  private link: Link | undefined;
  private linkNumber = 0;
  private lastRid = 0;
  private closing: Promise<void> | undefined;
  private readonly pending: Input[] = [];
  private feeding = false;
  private lastClose: Promise<void> = Promise.resolve();

  constructor(
    readonly core: ClientCore,
    private readonly transport: Transport,
  ) {
    this.alarm = new Alarm(monotonicMs, () => this.feed({ type: "tick" }));
  }

  /** Start a job and tell its handle everything. A job id that is open here already ends the new handle. */
  open(handle: JobHandle, opened: OpenJob): void {
    if (this.jobs.has(handle.id)) {
      const text = `job ${handle.id} is open in this client already`;
      handle.ended(new AlreadyExists(text, { reason: "id_conflict", job: handle.id }));
      return;
    }
    this.jobs.set(handle.id, handle);
    this.feed(opened);
  }

  /** The answer to a request. */
  async ask(
    method: string,
    params: Record<string, unknown>,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<unknown> {
    signal?.throwIfAborted();
    const body = Object.keys(params).length > 0 ? encodeBody({ params }) : new Uint8Array(0);
    this.lastRid += 1;
    const rid = `r${this.lastRid}`;
    let abort: (() => void) | undefined;
    try {
      const value = await new Promise<unknown>((resolve, reject) => {
        this.answers.set(rid, resolve);
        abort = () => {
          this.feed({ type: "give-up", rid });
          reject(signal?.reason);
        };
        signal?.addEventListener("abort", abort, { once: true });
        this.feed({ type: "ask", rid, method, body, timeoutMs });
      });
      if (value instanceof DspymqError) throw value;
      return value;
    } finally {
      this.answers.delete(rid);
      if (abort !== undefined) signal?.removeEventListener("abort", abort);
    }
  }

  /** Give the handle every event of these kinds until `unsubscribe`. */
  subscribe(key: string, handle: EventsHandle, kinds: readonly string[]): void {
    this.subscriptions.set(key, handle);
    this.feed({ type: "subscribe", key, kinds });
  }

  unsubscribe(key: string): void {
    if (this.subscriptions.delete(key)) this.feed({ type: "unsubscribe", key });
  }

  /** End everything that is open and close the connection. */
  close(): Promise<void> {
    this.closing ??= (async () => {
      this.feed({ type: "close" });
      this.alarm.stop();
      await this.lastClose;
    })();
    return this.closing;
  }

  /** Give the core an event, do what it says, and set the alarm for what it waits for. */
  feed(event: Input): void {
    this.pending.push(event);
    // Handlers of outputs may feed: their events wait until these outputs are done.
    if (this.feeding) return;
    this.feeding = true;
    try {
      for (let next = this.pending.shift(); next !== undefined; next = this.pending.shift()) {
        for (const output of this.core.handle(next, monotonicMs())) this.perform(output);
      }
    } finally {
      this.feeding = false;
    }
    if (this.closing === undefined) this.alarm.set(this.core.wakeAtMs());
  }

  private perform(output: Output): void {
    switch (output.type) {
      case "send":
        this.send(output);
        break;
      case "connect":
        this.connect(output.address);
        break;
      case "disconnect":
        this.disconnect(output.lingerMs);
        break;
      default:
        // What a callback of the caller throws must not stop the client.
        try {
          this.tell(output);
        } catch (error) {
          throwLater(error);
        }
    }
  }

  private tell(output: Output): void {
    switch (output.type) {
      case "ended": {
        const handle = this.jobs.get(output.job);
        this.jobs.delete(output.job);
        handle?.ended(output.outcome);
        break;
      }
      case "text":
        this.jobs.get(output.job)?.text(output.chunks);
        break;
      case "updated":
        this.jobs.get(output.job)?.updated(output.message);
        break;
      case "tool-called":
        this.jobs.get(output.job)?.toolCalled(output);
        break;
      case "tools-void":
        this.jobs.get(output.job)?.toolsVoid();
        break;
      case "answered":
        this.answers.get(output.rid)?.(output.value);
        break;
      case "subscribed":
        this.subscriptions.get(output.key)?.subscribed();
        break;
      case "event":
        this.subscriptions.get(output.key)?.event(output.event);
        break;
      case "unsubscribed": {
        const handle = this.subscriptions.get(output.key);
        this.subscriptions.delete(output.key);
        handle?.unsubscribed(output.error);
        break;
      }
      default:
        break;
    }
  }

  private send(output: Extract<Output, { type: "send" }>): void {
    this.link?.send(codec.encode(output.message, output.body));
  }

  private connect(address: string): void {
    this.disconnect(0);
    const number = this.linkNumber;
    const isCurrent = (): boolean => number === this.linkNumber;
    this.link = this.transport.open(address, {
      frames: (frames) => {
        if (isCurrent()) this.feed(read(frames));
      },
      down: (reason) => {
        if (isCurrent()) this.feed({ type: "link-down", reason });
      },
    });
  }

  private disconnect(lingerMs: number): void {
    const { link } = this;
    this.link = undefined;
    this.linkNumber += 1;
    if (link !== undefined) this.lastClose = link.close(lingerMs);
  }
}

function read(frames: Uint8Array[]): Input {
  try {
    const { message, body } = codec.decode(frames);
    return { type: "received", message: message as ToClient, body };
  } catch (error) {
    if (error instanceof Problem) return { type: "garbled", problem: error };
    throw error;
  }
}
