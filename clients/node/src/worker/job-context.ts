import type { PlainMap } from "../protocol/body.js";
import type { ModelUsage, ProgressReportFields } from "./types.js";
import type { ToolOffer } from "./tool-channel.js";

/** What a program is given beside its inputs. */
export interface JobContext {
  /** Aborted when the job is to stop: cancelled, or out of time. Pass it on to whatever takes a signal. */
  readonly signal: AbortSignal;
  /** The job's id, as its client chose it. */
  readonly job: string;
  /** 1, 2, ...: a job may be run again when a worker is lost. */
  readonly attempt: number;
  /** The model profile that the job asked for. */
  readonly profile: string | undefined;
  /** Parameters for model calls that the job asked for. */
  readonly config: Readonly<PlainMap>;
  /** W3C trace context. */
  readonly trace: Readonly<Record<string, string>> | undefined;
  /** The tools that the client offers, by name. */
  readonly tools: ReadonlyMap<string, ToolOffer>;
  /** Milliseconds until the job's deadline. */
  leftMs(): number;
  /** Stream more text of an output. What is returned in the end decides: the stream is made equal to it. */
  write(field: string, text: string): void;
  /** Take back the text of an output. */
  clear(field: string): void;
  /** Say how far it is; only the newest counts. */
  progress(report: ProgressReportFields): void;
  /** Call a tool of the client. Rejects with ToolError. */
  callTool(name: string, args?: PlainMap): Promise<any>;
  /** Count a model call; told to the client with the result, also if the job fails. */
  addUsage(model: string, usage: Partial<ModelUsage>): void;
}
