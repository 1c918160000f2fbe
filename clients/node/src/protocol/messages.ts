/** The messages of DJP/1 (SPEC.md sections 4.3 to 4.6): their types. `shapes.ts` has the tables by which they are read. */

/** What a client may hear of a job besides its result. */
export type Want = "accepted" | "started" | "progress" | "chunks" | "tools";
export type JobState = "queued" | "dispatched" | "running" | "cancelling" | "done";
export type Cause = "cancel" | "deadline" | "fenced";
export type ReleaseCause = "drain" | "crash" | "stall" | "capacity";
export type Blame = "self" | "shared" | "none";
export type Details = Record<string, unknown>;

/** Sizes and bounds of a broker (section 13). */
export interface Limits {
  max_header_bytes: number;
  max_body_bytes: number;
  max_timeout_ms: number;
  max_jobs: number;
  max_jobs_per_flow: number;
  max_queued_bytes: number;
}

/** What one language model was used for. */
export interface ModelUsage {
  input_tokens: number;
  output_tokens: number;
  cost?: number;
}

/** What an attempt used. */
export interface Usage {
  calls: number;
  models: Record<string, ModelUsage>;
}

/** Where the time went, in milliseconds. */
export interface Timings {
  queued_ms?: number;
  run_ms?: number;
  lm_ms?: number;
}

export interface Welcome {
  t: "welcome";
  epoch: string;
  session: string;
  features: string[];
  ping_ms: number;
  dead_ms: number;
  adopt_ms: number;
  orphan_ms: number;
  retain_ms: number;
  limits: Limits;
}

export interface ErrorMessage {
  t: "error";
  code: string;
  reason: string;
  message: string;
  retryable: boolean;
  retry_after_ms?: number;
  rid?: string;
  job?: string;
  lease?: string;
  details?: Details;
}

export interface Hello {
  t: "hello";
  name: string;
  lang?: string;
  features?: string[];
  auth?: string;
}

export interface Ping {
  t: "ping";
  n: number;
}

export interface Pong {
  t: "pong";
  n: number;
}

export interface Bye {
  t: "bye";
  reason: string;
}

export interface RequestMessage {
  t: "request";
  rid: string;
  method: string;
}

export interface Reply {
  t: "reply";
  rid: string;
}

export interface Submit {
  t: "submit";
  job: string;
  program: string;
  timeout_ms: number;
  revision?: string;
  profile?: string;
  lane?: string;
  priority?: number;
  want?: Want[];
  window?: number;
  on_disconnect?: "cancel" | "keep";
  fail_fast?: boolean;
  redeliver?: boolean;
  durable?: boolean;
  affinity?: string;
  known_epoch?: string;
  trace?: Record<string, string>;
}

/** The end of a job (towards clients: `job`), or of an attempt (from workers: `lease`). */
export interface ResultFields {
  attempt: number;
  code: string;
  reason?: string;
  message?: string;
  retryable: boolean;
  retry_after_ms?: number;
  details?: Details;
  chunks: number;
  usage?: Usage;
  timings?: Timings;
  revision?: string;
}

export interface Accepted {
  t: "accepted";
  job: string;
  state: JobState;
  attempt: number;
  duplicate: boolean;
  waiting: boolean;
  missing: string[];
}

export interface EventMessage {
  t: "event";
  sub: string;
  seq: number;
  kind: string;
  at_ms: number;
}

type OfJob<T> = T & { job: string };
type OfLease<T> = T & { lease: string };

interface StartedFields {
  t: "started";
  attempt: number;
  revision: string;
  worker: string;
}

interface ChunkFields {
  t: "chunk";
  attempt: number;
  seq: number;
  reset: boolean;
}

interface ProgressFields {
  t: "progress";
  attempt: number;
  done?: number;
  total?: number;
  note?: string;
}

interface CreditFields {
  t: "credit";
  attempt: number;
  upto: number;
}

interface AttachFields {
  t: "attach";
  want?: Want[];
  window?: number;
}

interface ToolCallFields {
  t: "tool_call";
  attempt: number;
  call: number;
  name: string;
  timeout_ms: number;
}

interface ToolResultFields {
  t: "tool_result";
  attempt: number;
  call: number;
  code: string;
  message?: string;
}

// At the clients' endpoint.
export type Result = OfJob<ResultFields & { t: "result" }>;
export type Started = OfJob<StartedFields>;
export type ChunkMessage = OfJob<ChunkFields>;
export type Progress = OfJob<ProgressFields>;
export type Credit = OfJob<CreditFields>;
export type Attach = OfJob<AttachFields>;
export type ToolCall = OfJob<ToolCallFields>;
export type ToolResult = OfJob<ToolResultFields>;
export type Cancel = OfJob<{ t: "cancel" }>;
export interface Ack {
  t: "ack";
  jobs: string[];
}

// At the workers' endpoint.
export type WorkerResult = OfLease<ResultFields & { t: "result" }>;
export type WorkerStarted = OfLease<StartedFields>;
export type WorkerChunk = OfLease<ChunkFields>;
export type WorkerProgress = OfLease<ProgressFields>;
export type WorkerCredit = OfLease<CreditFields>;
export type WorkerAttach = OfLease<AttachFields>;
export type WorkerToolCall = OfLease<ToolCallFields>;
export type WorkerToolResult = OfLease<ToolResultFields>;
export type WorkerCancel = OfLease<{ t: "cancel"; cause: Cause; grace_ms: number }>;
export interface WorkerAck {
  t: "ack";
  leases: string[];
}

export interface Held {
  lease: string;
  ns: string;
  job: string;
  attempt: number;
  digest: string;
  state: "running" | "done";
  lane: string;
  seq: number;
  left_ms: number;
}

export interface Ready {
  t: "ready";
  worker: string;
  slots: Record<string, number>;
  programs: { name: string; revision: string }[];
  profiles?: string[];
  held?: Held[];
  more?: boolean;
}

export interface Synced {
  t: "synced";
  keep: string[];
}

export interface Dispatch {
  t: "dispatch";
  lease: string;
  ns: string;
  job: string;
  attempt: number;
  digest: string;
  program: string;
  revision: string;
  timeout_ms: number;
  profile?: string;
  lane: string;
  want: Want[];
  window?: number;
  isolate: boolean;
  defined: boolean;
  trace?: Record<string, string>;
}

export interface Released {
  t: "released";
  lease: string;
  started: boolean;
  cause: ReleaseCause;
  blame: Blame;
  details?: Details;
}

export interface Drain {
  t: "drain";
  grace_ms: number;
}

/** What a broker may say to a client. */
export type ToClient =
  | Welcome
  | Ping
  | Pong
  | Bye
  | ErrorMessage
  | Reply
  | Result
  | Accepted
  | Started
  | ChunkMessage
  | Progress
  | ToolCall
  | EventMessage;

/** What a client may say. */
export type FromClient =
  Hello | Ping | Pong | Bye | RequestMessage | Submit | Ack | Credit | Cancel | Attach | ToolResult;

/** What a broker may say to a worker. */
export type ToWorker =
  | Welcome
  | Ping
  | Pong
  | Bye
  | ErrorMessage
  | Reply
  | Dispatch
  | Synced
  | Drain
  | WorkerAck
  | WorkerCredit
  | WorkerAttach
  | WorkerToolResult
  | WorkerCancel;

/** What a worker may say. */
export type FromWorker =
  | Hello
  | Ping
  | Pong
  | Bye
  | RequestMessage
  | Ready
  | Released
  | WorkerResult
  | WorkerStarted
  | WorkerChunk
  | WorkerProgress
  | WorkerToolCall;

/** What is assumed before `welcome` (section 13). */
export const DEFAULT_LIMITS: Limits = {
  max_header_bytes: 65_536,
  max_body_bytes: 16_777_216,
  max_timeout_ms: 2_592_000_000,
  max_jobs: 500_000,
  max_jobs_per_flow: 250_000,
  max_queued_bytes: 1_073_741_824,
};

export const DEFAULT_LANE = "default";
export const DEFAULT_PRIORITY = 4;
