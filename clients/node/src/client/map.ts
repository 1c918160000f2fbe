import { DspymqError, InvalidArgument } from "../errors.js";
import type { Job } from "./job.js";
import type { Outputs, Prediction } from "./prediction.js";

/** Results that wait for a slower one before them: at most so many times the concurrency. */
const AHEAD = 8;

export type Inputs = Record<string, unknown>;
export type ManyInputs = Iterable<Inputs> | AsyncIterable<Inputs>;

/** The results in the order of the inputs, with at most `concurrency` jobs in flight. See Client.map. */
export async function* mapJobs<O extends Outputs>(
  submit: (inputs: Inputs) => Job<O>,
  many: ManyInputs,
  concurrency: number,
  returnErrors: boolean,
  signal: AbortSignal | undefined,
): AsyncGenerator<Prediction<O> | DspymqError, void, undefined> {
  if (!Number.isInteger(concurrency) || concurrency < 1) {
    throw new InvalidArgument(`\`concurrency\` must be a whole number above 0, not ${concurrency}`, {
      reason: "invalid_option",
    });
  }
  signal?.throwIfAborted();
  const source: Iterator<Inputs> | AsyncIterator<Inputs> =
    Symbol.asyncIterator in many ? many[Symbol.asyncIterator]() : many[Symbol.iterator]();
  const window: Job<O>[] = [];
  let pull: Promise<IteratorResult<Inputs>> | undefined;
  let pulled: IteratorResult<Inputs> | undefined;
  let failure: { error: unknown } | undefined;
  let exhausted = false;
  let wake: () => void = () => undefined;
  const onAbort = (): void => wake();
  signal?.addEventListener("abort", onAbort);
  try {
    for (;;) {
      const news = new Promise<void>((resolve) => {
        wake = resolve;
      });
      signal?.throwIfAborted();
      if (failure !== undefined) throw failure.error;
      const inFlight = window.filter((job) => !job.done).length;
      if (pulled !== undefined) {
        if (pulled.done) exhausted = true;
        else {
          const job = submit(pulled.value);
          void job
            .result()
            .catch(() => undefined)
            .then(() => wake());
          window.push(job);
        }
        pulled = pull = undefined;
      } else if (pull === undefined && !exhausted && inFlight < concurrency && window.length < concurrency * AHEAD) {
        // Beside the results: a slow source must not hold back what is done.
        pull = Promise.resolve(source.next());
        pull.then(
          (next) => {
            pulled = next;
            wake();
          },
          (error: unknown) => {
            failure = { error };
            wake();
          },
        );
      } else if (window[0]?.done) {
        const job = window.shift() as Job<O>;
        if (job.error === undefined) yield await job.result();
        else if (returnErrors) yield job.error;
        else throw job.error;
      } else if (exhausted && window.length === 0) {
        return;
      } else {
        await news;
      }
    }
  } finally {
    signal?.removeEventListener("abort", onAbort);
    for (const job of window) job.cancel();
    if (!exhausted && pull === undefined) await source.return?.();
  }
}
