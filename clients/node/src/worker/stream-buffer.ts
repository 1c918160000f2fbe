/** The chunks of one attempt: text by field, numbered, held back without credit, never lost (SPEC.md section 9). */

export interface ChunkText {
  seq: number;
  /** It replaces all before it. */
  reset: boolean;
  fields: Record<string, string>;
}

/** Collects text and gives out chunks. Pure: the owner calls `take` until it gives nothing, and sends the chunks. */
export class StreamBuffer {
  nextSeq = 0;
  private upto: number;
  private resetDue: boolean;
  private forced = false;
  private sent = new Map<string, string>();
  private pending = new Map<string, string>();

  /** `window` undefined is unlimited credit; `texts` undefined takes any field. */
  constructor(
    private wanted: boolean,
    window: number | undefined,
    beginWithReset: boolean,
    private readonly texts: ReadonlySet<string> | undefined,
  ) {
    this.upto = window ?? Infinity;
    this.resetDue = beginWithReset;
  }

  /** Whether text of this field belongs into the stream. */
  takes(field: string): boolean {
    return this.texts === undefined || this.texts.has(field);
  }

  /** More text of a field. */
  write(field: string, text: string): void {
    if (text !== "" && this.takes(field)) this.pending.set(field, (this.pending.get(field) ?? "") + text);
  }

  /** Take back all the text of a field. */
  clear(field: string): void {
    this.pending.delete(field);
    if (this.sent.delete(field)) this.resetDue = this.forced = true;
  }

  /** Make the stream's text exactly that of the outputs, whatever was written before. */
  settle(outputs: Readonly<Record<string, unknown>>): void {
    for (const [field, text] of Object.entries(outputs)) {
      if (typeof text !== "string" || !this.takes(field)) continue;
      const written = this.text(field);
      if (text.startsWith(written)) {
        this.write(field, text.slice(written.length));
      } else {
        this.clear(field);
        this.pending.set(field, text);
      }
    }
    for (const field of [...this.sent.keys(), ...this.pending.keys()]) {
      if (typeof outputs[field] !== "string") this.clear(field);
    }
  }

  /** Chunks with seq < upto may go out; less than before is ignored. */
  credit(upto: number): void {
    if (upto > this.upto) this.upto = upto;
  }

  /** A client attached: want and window are replaced, and the next chunk is a snapshot of all so far. */
  attach(wanted: boolean, window: number | undefined): void {
    this.wanted = wanted;
    this.upto = window === undefined ? Infinity : this.nextSeq + window;
    this.resetDue = this.forced = wanted;
  }

  /** The next chunk, if there is something to say and credit; `last` needs no credit. */
  take(last = false): ChunkText | undefined {
    if (!this.wanted || (!last && this.nextSeq >= this.upto)) return undefined;
    const fresh = this.freshText(last);
    const hasText = Object.keys(fresh).length > 0;
    if (!this.forced && !hasText && !(last && this.resetDue && this.sent.size > 0)) return undefined;
    for (const [field, text] of Object.entries(fresh)) {
      this.sent.set(field, (this.sent.get(field) ?? "") + text);
      const rest = (this.pending.get(field) ?? "").slice(text.length);
      if (rest === "") this.pending.delete(field);
      else this.pending.set(field, rest);
    }
    const reset = this.resetDue;
    this.resetDue = this.forced = false;
    const seq = this.nextSeq;
    this.nextSeq += 1;
    return { seq, reset, fields: reset ? Object.fromEntries(this.sent) : fresh };
  }

  /** What is pending, but for half a character at its end: the other half may still come. */
  private freshText(last: boolean): Record<string, string> {
    const fresh: Record<string, string> = {};
    for (const [field, text] of this.pending) {
      const whole = !last && /[\ud800-\udbff]$/.test(text) ? text.slice(0, -1) : text;
      if (whole !== "") fresh[field] = last ? whole.toWellFormed() : whole;
    }
    return fresh;
  }

  private text(field: string): string {
    return (this.sent.get(field) ?? "") + (this.pending.get(field) ?? "");
  }
}
