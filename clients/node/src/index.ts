/** dspymq: call DSPy programs that run in other processes, and serve programs of your own, over DJP/1. */
export {
  Client,
  type ClientOptions,
  type MapOptions,
  type ProgramDetails,
  type ProgramRow,
  type RequestOptions,
} from "./client/client.js";
export type { BrokerEvent, Chunk } from "./client/events.js";
export type { EventStream } from "./client/event-stream.js";
export type { Job, Stream } from "./client/job.js";
export type { Inputs, ManyInputs } from "./client/map.js";
export { callOnce, type OnceOptions } from "./client/one-shot.js";
export type { JobOptions, ProgressReport, SubmitOptions } from "./client/options.js";
export { type Outputs, Prediction } from "./client/prediction.js";
export type { JsonSchema, Tool, ToolContext } from "./client/tools.js";
export {
  Aborted,
  AlreadyExists,
  BrokerUnreachable,
  Cancelled,
  ClientClosed,
  DeadlineExceeded,
  DspymqError,
  type DspymqErrorOptions,
  FailedPrecondition,
  Internal,
  InvalidArgument,
  NotFound,
  PermissionDenied,
  ProgramError,
  ResourceExhausted,
  Unauthenticated,
  Unavailable,
  Unimplemented,
} from "./errors.js";
export type { JobState, Limits, ModelUsage, Timings, Usage } from "./protocol/messages.js";
export type { JobContext } from "./worker/job-context.js";
export { JobError, type JobErrorOptions, ToolError } from "./worker/job-error.js";
export type { LogLevel } from "./worker/messages.js";
export type { FieldSchema, ProgramDefinition, Programs, TypeName } from "./worker/programs.js";
export type { ToolOffer } from "./worker/tool-channel.js";
export { Worker, type WorkerOptions } from "./worker/worker.js";
