import { ClientClosed, type DspymqError } from "../errors.js";
import type { Driver, EventsHandle } from "./driver.js";
import type { BrokerEvent } from "./events.js";

/** Events that wait to be read; past it the oldest are dropped, and the next one that is read has `gap`. */
const MAX_WAITING = 10_000;

/** The broker's events as they come. `close()`, or leaving the loop, ends the subscription. */
export class EventStream implements AsyncIterable<BrokerEvent>, AsyncDisposable {
  private waiting: BrokerEvent[] = [];
  private dropped = false;
  private isReady = false;
  private error: DspymqError | undefined;
  private closed = false;
  private waiters: (() => void)[] = [];

  /** Made by Client. */
  constructor(
    private readonly driver: Driver,
    private readonly key: string,
  ) {}

  /** Wait until the broker has taken the subscription: what happens from then on is told. */
  async ready(): Promise<void> {
    while (!this.isReady && this.error === undefined) await this.news();
    if (this.error !== undefined) throw this.error;
  }

  /** End the subscription; iteration stops. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.driver.unsubscribe(this.key);
    this.error ??= new ClientClosed("the subscription is closed");
    this.tell();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<BrokerEvent, void, undefined> {
    try {
      for (;;) {
        const event = this.waiting.shift();
        if (event !== undefined) {
          const { dropped } = this;
          this.dropped = false;
          yield dropped ? { ...event, gap: true } : event;
        } else if (this.closed) {
          return;
        } else if (this.error !== undefined) {
          throw this.error;
        } else {
          await this.news();
        }
      }
    } finally {
      this.close();
    }
  }

  /** @internal What the driver tells. */
  readonly handle: EventsHandle = {
    subscribed: () => {
      this.isReady = true;
      this.tell();
    },
    event: (event) => {
      this.waiting.push(event);
      if (this.waiting.length > MAX_WAITING) {
        this.waiting.shift();
        this.dropped = true;
      }
      this.tell();
    },
    unsubscribed: (error) => {
      this.error = error;
      this.tell();
    },
  };

  private news(): Promise<void> {
    return new Promise((resolve) => this.waiters.push(resolve));
  }

  private tell(): void {
    const { waiters } = this;
    this.waiters = [];
    for (const told of waiters) told();
  }
}
