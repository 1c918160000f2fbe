import type { Result, Timings, Usage } from "../protocol/messages.js";

/** What programs give: values by output field. */
export type Outputs = Record<string, any>;

/** The outputs of a job that went well, and what is known of its run. */
export class Prediction<O extends Outputs = Outputs> {
  readonly outputs: O;
  /** The job's id. */
  readonly job: string;
  /** The attempt that gave this; 1 unless it had to be run again. */
  readonly attempt: number;
  /** The program's revision. */
  readonly revision: string | undefined;
  /** Model calls, and tokens by model. */
  readonly usage: Usage | undefined;
  /** Where the time went, in milliseconds. */
  readonly timings: Timings | undefined;

  constructor(outputs: O, result: Pick<Result, "job" | "attempt" | "revision" | "usage" | "timings">) {
    this.outputs = outputs;
    this.job = result.job;
    this.attempt = result.attempt;
    this.revision = result.revision;
    this.usage = result.usage;
    this.timings = result.timings;
  }
}
