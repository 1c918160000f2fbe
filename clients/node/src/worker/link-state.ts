/**
 * What the worker knows of its broker: whether they agree on what is held, and what the broker was told last.
 *
 * After each welcome the worker reports all it holds in pages of `ready`; until the last page's `synced` nothing of a
 * lease is sent and no dispatch is taken (SPEC.md section 6.3). Changes of what it offers are told at once while they
 * are few, and gathered when they are many.
 */
import { encodeBody, type PlainMap } from "../protocol/body.js";
import { workerCodec } from "../protocol/codec.js";
import type { Held, Ready, Welcome } from "../protocol/messages.js";
import type { Context } from "./context.js";
import type { Crew } from "./crew.js";
import type { Lease } from "./lease.js";
import type { ExecutorReady, Offer } from "./messages.js";

const MAX_HELD = 200;
/** So many `ready` go out at once; after that one an interval, with the newest state. */
const READY_BURST = 4;
const READY_INTERVAL_MS = 100;
const MAX_DESCRIPTION_BYTES = 1024 * 1024;

const codec = workerCodec();

export class LinkState {
  up = false;
  /** Whether messages of leases can be sent. */
  open = false;
  congested = false;
  private programs: Offer[] | undefined;
  private descriptions: PlainMap = {};
  private toReport: string[] = [];
  private page: string[] | undefined;
  private tokens = READY_BURST;
  private refilledMs = 0;
  private fences = 0;
  private confirmedFence = 0;
  private farewell = 0;

  constructor(
    private readonly context: Context,
    private readonly crew: Crew,
    private readonly leases: Map<string, Lease>,
  ) {}

  /** Whether chunks and progress can be sent, too. */
  get flowing(): boolean {
    return this.open && !this.congested;
  }

  /** An executor says what it runs; all executors of a worker run the same. */
  offer(ready: ExecutorReady): void {
    const isOther = this.programs !== undefined && JSON.stringify(this.programs) !== JSON.stringify(ready.programs);
    if (isOther) this.context.log("warn", "worker.programs_differ");
    this.programs = ready.programs;
    this.descriptions = ready.descriptions;
  }

  sessionUp(welcome: Welcome): void {
    this.context.limits = welcome.limits;
    this.sessionDown();
    this.up = true;
  }

  sessionDown(): void {
    this.up = false;
    this.open = false;
    this.congested = false;
    this.page = undefined;
    this.toReport = [];
    this.farewell = 0;
  }

  /** Begin to report what is held, once there is a session and something to offer. */
  reportIfDue(): void {
    if (!this.up || this.open || this.page !== undefined || this.programs === undefined) return;
    this.toReport = [...this.leases.keys()];
    this.sendPage();
  }

  /** The broker answered a page. Returns the leases of it that are to be dropped; undefined if no page is open. */
  pageSynced(keep: readonly string[]): Lease[] | undefined {
    if (this.page === undefined) return undefined;
    const kept = new Set(keep);
    const named = this.page;
    this.page = undefined;
    const dropped: Lease[] = [];
    for (const id of named) {
      const lease = this.leases.get(id);
      if (lease !== undefined && !kept.has(id)) dropped.push(lease);
    }
    if (this.toReport.length > 0) this.sendPage();
    else this.open = true;
    return dropped;
  }

  /** Send `ready` if the crew has changed, now or as soon as the last ones are long enough ago. */
  tellChanges(): void {
    if (!this.crew.changed || !this.open) return;
    const { nowMs } = this.context;
    const refill = Math.floor((nowMs - this.refilledMs) / READY_INTERVAL_MS);
    if (refill > 0) {
      this.tokens = Math.min(READY_BURST, this.tokens + refill);
      this.refilledMs = nowMs;
    }
    if (this.tokens <= 0) {
      this.context.lookAt(this.refilledMs + READY_INTERVAL_MS);
      return;
    }
    this.tokens -= 1;
    this.sendChange();
  }

  /** Whether no dispatch can be on its way any more: the broker has heard that there are no slots. */
  mayLeave(): boolean {
    if (!this.open) return this.page === undefined && !this.up;
    if (this.farewell === 0) {
      this.sendChange();
      this.sendFence();
      this.farewell = this.fences;
    }
    return this.confirmedFence >= this.farewell;
  }

  /** A number for messages sent now: a pong with it, or a later one, proves that the broker heard them. */
  nextFence(): number {
    return this.fences + 1;
  }

  confirmed(fence: number): void {
    this.confirmedFence = Math.max(this.confirmedFence, fence);
  }

  /** Ask for that pong. */
  sendFence(): void {
    this.fences += 1;
    this.context.toBroker({ t: "ping", n: this.fences });
  }

  private sendChange(): void {
    this.crew.changed = false;
    this.context.toBroker(this.ready(undefined, false), this.body());
  }

  private sendPage(): void {
    const { context } = this;
    let room = context.limits.max_header_bytes - codec.encodeHeader(this.ready([], true)).length - 64;
    const page: Held[] = [];
    while (page.length < MAX_HELD) {
      const id = this.toReport[0];
      if (id === undefined) break;
      const lease = this.leases.get(id);
      if (lease !== undefined && !lease.dropped) {
        room -= lease.heldBytes();
        if (room < 0 && page.length > 0) break;
        page.push(lease.held(context.nowMs));
      }
      this.toReport.shift();
    }
    this.page = page.map((held) => held.lease);
    this.crew.changed = false;
    context.toBroker(this.ready(page, this.toReport.length > 0), this.body());
  }

  private ready(held: Held[] | undefined, more: boolean): Ready {
    const { worker, profiles } = this.context.settings;
    const slots = this.crew.slots();
    if (this.context.closing) for (const lane of Object.keys(slots)) slots[lane] = 0;
    const ready: Ready = { t: "ready", worker, slots, programs: this.programs ?? [], profiles: [...profiles], more };
    if (held !== undefined) ready.held = held;
    return ready;
  }

  private body(): Uint8Array {
    const { wallOffsetMs } = this.context.settings;
    const executors = [...this.crew.executors.values()].map((executor) => executor.describe(wallOffsetMs));
    const body = encodeBody({ programs: this.descriptions, executors });
    if (body.length <= MAX_DESCRIPTION_BYTES) return body;
    this.context.log("warn", `worker.descriptions_too_large bytes=${body.length} limit=${MAX_DESCRIPTION_BYTES}`);
    return encodeBody({ executors });
  }
}
