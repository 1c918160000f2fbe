/** Wakes a core in time: one timer, moved only to be earlier. */

/** What setTimeout can hold. */
const LONGEST_MS = 2 ** 31 - 1;

export class Alarm {
  private timer: NodeJS.Timeout | undefined;
  private atMs = Infinity;

  constructor(
    private readonly clockMs: () => number,
    private readonly ring: () => void,
  ) {}

  /** Ring at this time, or earlier: a ring for nothing costs one look. */
  set(atMs: number | undefined): void {
    if (atMs === undefined || (this.timer !== undefined && this.atMs <= atMs)) return;
    clearTimeout(this.timer);
    this.atMs = atMs;
    const delay = Math.min(LONGEST_MS, Math.max(0, Math.ceil(atMs - this.clockMs())));
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.ring();
    }, delay);
  }

  stop(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
  }
}

/** Whole milliseconds of a clock that never goes back. */
export function monotonicMs(): number {
  return Math.floor(performance.now());
}

/** Let an error of somebody's callback be seen as uncaught, without harm to what called it. */
export function throwLater(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}
