/** Named points in time for a pure core: set, cancel, take those that are due. */

interface Entry {
  readonly atMs: number;
  readonly key: string;
}

/** Dead entries that are tolerated beside twice the live ones, before the heap is rebuilt. */
const SLACK = 64;

/** A heap in which each key counts once: setting it again moves it. */
export class Timers {
  private readonly live = new Map<string, Entry>();
  private heap: Entry[] = [];

  get size(): number {
    return this.live.size;
  }

  /** Make `key` due at `atMs`, and only then. */
  set(key: string, atMs: number): void {
    const entry = { atMs, key };
    this.live.set(key, entry);
    if (this.heap.length > 2 * this.live.size + SLACK) {
      this.heap = [...this.live.values()].sort((a, b) => a.atMs - b.atMs);
    } else {
      this.push(entry);
    }
  }

  /** Forget `key`; unknown keys are fine. */
  cancel(key: string): void {
    this.live.delete(key);
  }

  /** The earliest time at which something is due. */
  nextAt(): number | undefined {
    this.dropDead();
    return this.heap[0]?.atMs;
  }

  /** Take the next key that is due. */
  popDue(nowMs: number): string | undefined {
    this.dropDead();
    const first = this.heap[0];
    if (first === undefined || first.atMs > nowMs) return undefined;
    this.pop();
    this.live.delete(first.key);
    return first.key;
  }

  private dropDead(): void {
    for (let first = this.heap[0]; first !== undefined; first = this.heap[0]) {
      if (this.live.get(first.key) === first) return;
      this.pop();
    }
  }

  private push(entry: Entry): void {
    const heap = this.heap;
    let at = heap.length;
    heap.push(entry);
    while (at > 0) {
      const up = (at - 1) >> 1;
      const parent = heap[up] as Entry;
      if (parent.atMs <= entry.atMs) break;
      heap[at] = parent;
      at = up;
    }
    heap[at] = entry;
  }

  private pop(): void {
    const heap = this.heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    for (;;) {
      let down = 2 * at + 1;
      if (down >= heap.length) break;
      if (down + 1 < heap.length && (heap[down + 1] as Entry).atMs < (heap[down] as Entry).atMs) down += 1;
      const child = heap[down] as Entry;
      if (child.atMs >= last.atMs) break;
      heap[at] = child;
      at = down;
    }
    heap[at] = last;
  }
}
