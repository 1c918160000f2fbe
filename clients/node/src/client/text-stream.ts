/** The chunks of one job put in order, and its credit (SPEC.md section 9). Pure. */
import type { PlainMap } from "../protocol/body.js";
import type { ChunkMessage, Result } from "../protocol/messages.js";
import type { Chunk } from "./events.js";

/**
 * Earlier attempts and duplicates are dropped; a later attempt voids what came before; a gap in `seq` is noticed and
 * mended by the next reset, at the latest by `finish`.
 */
export class TextStream {
  attempt = 0;
  nextSeq = 0;
  private readonly window: number;
  private upto = 0;
  private readUpto = 0;
  private broken = false;
  private rejoining = false;
  private anew = false;
  private readonly fields = new Set<string>();

  constructor(window: number | undefined) {
    this.window = window ?? 0;
  }

  /**
   * The job was sent again: a reset is to come. With `anew`, to a broker that may know nothing of it: then the job
   * begins again, and that broker counts attempts and chunks from the start.
   */
  rejoin(anew: boolean): void {
    // Sent again and again, before anything came: what the first of these brokers knew nothing of is still to begin.
    this.anew = anew || (this.anew && this.rejoining);
    this.rejoining = true;
  }

  /** The chunks to hand to the reader for this message: one a field, none if it is stale. */
  take(message: ChunkMessage, fields: PlainMap): Chunk[] {
    if (this.isStale(message)) return [];
    const begins = message.attempt !== this.attempt || message.seq < this.nextSeq;
    const voids = message.reset || (begins && this.fields.size > 0);
    if (begins) this.begin(message.attempt);
    if (message.reset) {
      this.broken = false;
      this.upto = Math.max(this.upto, message.seq + this.window);
      this.fields.clear();
    } else if (message.seq > this.nextSeq) {
      this.broken = true;
    }
    this.nextSeq = message.seq + 1;
    this.rejoining = false;
    return this.pieces(fields, voids);
  }

  /** Another attempt was heard of (started, progress): what came before is void. */
  restart(attempt: number): Chunk[] {
    if (attempt <= this.attempt) return [];
    const voids = this.fields.size > 0;
    this.begin(attempt);
    return voids ? this.pieces({}, true) : [];
  }

  /** Compare with what the result says was sent; the chunks that mend what the reader lacks. */
  finish(result: Result, outputs: PlainMap): Chunk[] {
    const whole = this.attempt === result.attempt && this.nextSeq === result.chunks && !this.broken;
    if (whole || (this.fields.size === 0 && result.chunks === 0)) return [];
    const names = this.fields.size > 0 ? [...this.fields] : Object.keys(outputs);
    this.attempt = result.attempt;
    this.nextSeq = result.chunks;
    return this.pieces(Object.fromEntries(names.map((name) => [name, outputs[name]])), true);
  }

  /** The reader took the chunk `seq`; the `upto` of a credit that is due. */
  read(attempt: number, seq: number): number | undefined {
    if (this.window === 0 || attempt !== this.attempt) return undefined;
    this.readUpto = Math.max(this.readUpto, seq + 1);
    const upto = this.readUpto + this.window;
    if (upto - this.upto < Math.max(1, Math.floor(this.window / 2))) return undefined;
    this.upto = upto;
    return upto;
  }

  private isStale(message: ChunkMessage): boolean {
    const isOld = message.attempt < this.attempt || (message.attempt === this.attempt && message.seq < this.nextSeq);
    if (isOld && !(this.rejoining && this.anew)) return true;
    // What is neither a reset nor a beginning nor the very next was under way before the worker heard of the new
    // attachment: its reset will bring that text again.
    const follows = message.attempt === this.attempt && message.seq === this.nextSeq;
    return this.rejoining && !(message.reset || message.seq === 0 || follows);
  }

  private begin(attempt: number): void {
    this.attempt = attempt;
    this.nextSeq = 0;
    this.upto = this.window;
    this.readUpto = 0;
    this.broken = false;
    this.fields.clear();
  }

  private pieces(fields: PlainMap, reset: boolean): Chunk[] {
    const found: Chunk[] = [];
    const { attempt } = this;
    const seq = Math.max(this.nextSeq - 1, 0);
    for (const [field, text] of Object.entries(fields)) {
      if (typeof text !== "string") continue;
      this.fields.add(field);
      found.push({ field, text, reset: reset && found.length === 0, attempt, seq });
    }
    if (reset && found.length === 0) found.push({ field: "", text: "", reset: true, attempt, seq });
    return found;
  }
}
