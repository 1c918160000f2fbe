/** The tables of SPEC.md sections 4.3 to 4.6, by which messages are read and written. */
import {
  any,
  bool,
  count,
  float,
  id,
  int,
  list,
  mapOf,
  name,
  oneOf,
  optional,
  positive,
  required,
  type Shape,
  str,
  struct,
  text,
} from "./fields.js";
import { DEFAULT_LANE, DEFAULT_LIMITS, DEFAULT_PRIORITY } from "./messages.js";

const want = optional(list(oneOf("accepted", "started", "progress", "chunks", "tools")), []);
const printable = str(64, 1);
const details = optional(mapOf(any));

const limits: Shape = Object.fromEntries(
  Object.entries(DEFAULT_LIMITS).map(([key, value]) => [key, optional(positive, value)]),
);

const usage: Shape = {
  calls: optional(count, 0),
  models: optional(
    mapOf(
      struct({
        input_tokens: optional(count, 0),
        output_tokens: optional(count, 0),
        cost: optional(float(0, 1e12)),
      }),
    ),
    {},
  ),
};

const timings: Shape = { queued_ms: optional(count), run_ms: optional(count), lm_ms: optional(count) };

const result: Shape = {
  attempt: required(count),
  code: required(name),
  reason: optional(name),
  message: optional(text),
  retryable: optional(bool, false),
  retry_after_ms: optional(count),
  details,
  chunks: optional(count, 0),
  usage: optional(struct(usage)),
  timings: optional(struct(timings)),
  revision: optional(name),
};

const started: Shape = { attempt: required(count), revision: required(name), worker: required(text) };
const chunk: Shape = { attempt: required(count), seq: required(count), reset: optional(bool, false) };
const progress: Shape = {
  attempt: required(count),
  done: optional(count),
  total: optional(count),
  note: optional(text),
};
const credit: Shape = { attempt: required(count), upto: required(count) };
const attach: Shape = { want, window: optional(positive) };
const toolCall: Shape = {
  attempt: required(count),
  call: required(count),
  name: required(name),
  timeout_ms: required(count),
};
const toolResult: Shape = {
  attempt: required(count),
  call: required(count),
  code: required(name),
  message: optional(text),
};

const common: Record<string, Shape> = {
  hello: {
    name: required(printable),
    lang: optional(str(64), ""),
    features: optional(list(name), []),
    auth: optional(text),
  },
  welcome: {
    epoch: required(id),
    session: required(id),
    features: optional(list(name), []),
    ping_ms: required(positive),
    dead_ms: required(positive),
    adopt_ms: required(count),
    orphan_ms: required(count),
    retain_ms: required(count),
    limits: required(struct(limits)),
  },
  ping: { n: optional(count, 0) },
  pong: { n: optional(count, 0) },
  bye: { reason: optional(text, "") },
  error: {
    code: required(name),
    reason: required(name),
    message: optional(text, ""),
    retryable: optional(bool, false),
    retry_after_ms: optional(count),
    rid: optional(str()),
    job: optional(str()),
    lease: optional(str()),
    details,
  },
  request: { rid: required(id), method: required(name) },
  reply: { rid: required(id) },
};

const job = required(id);
const lease = required(id);

/** The tables of the clients' endpoint. */
export const CLIENT_SHAPES: Readonly<Record<string, Shape>> = {
  ...common,
  submit: {
    job,
    program: required(name),
    timeout_ms: required(positive),
    revision: optional(name),
    profile: optional(name),
    lane: optional(name, DEFAULT_LANE),
    priority: optional(int(0, 9), DEFAULT_PRIORITY),
    want,
    window: optional(positive),
    on_disconnect: optional(oneOf("cancel", "keep"), "cancel"),
    fail_fast: optional(bool, false),
    redeliver: optional(bool, true),
    durable: optional(bool, false),
    affinity: optional(id),
    known_epoch: optional(id),
    trace: optional(mapOf(str())),
  },
  result: { job, ...result },
  ack: { jobs: required(list(id, 1_000)) },
  accepted: {
    job,
    state: required(oneOf("queued", "dispatched", "running", "cancelling", "done")),
    attempt: required(count),
    duplicate: optional(bool, false),
    waiting: optional(bool, false),
    missing: optional(list(str()), []),
  },
  started: { job, ...started },
  chunk: { job, ...chunk },
  progress: { job, ...progress },
  credit: { job, ...credit },
  cancel: { job },
  attach: { job, ...attach },
  tool_call: { job, ...toolCall },
  tool_result: { job, ...toolResult },
  event: { sub: required(id), seq: required(count), kind: required(name), at_ms: required(count) },
};

/** The tables of the workers' endpoint. */
export const WORKER_SHAPES: Readonly<Record<string, Shape>> = {
  ...common,
  result: { lease, ...result },
  ack: { leases: required(list(id, 1_000)) },
  started: { lease, ...started },
  chunk: { lease, ...chunk },
  progress: { lease, ...progress },
  credit: { lease, ...credit },
  cancel: {
    lease,
    cause: required(oneOf("cancel", "deadline", "fenced")),
    grace_ms: required(count),
  },
  attach: { lease, ...attach },
  tool_call: { lease, ...toolCall },
  tool_result: { lease, ...toolResult },
  ready: {
    worker: required(id),
    slots: required(mapOf(count)),
    programs: optional(list(struct({ name: required(name), revision: required(name) })), []),
    profiles: optional(list(name), []),
    held: optional(
      list(
        struct({
          lease,
          ns: required(str()),
          job,
          attempt: required(count),
          digest: required(str()),
          state: required(oneOf("running", "done")),
          lane: optional(name, DEFAULT_LANE),
          seq: optional(count, 0),
          left_ms: optional(count, 0),
        }),
        200,
      ),
    ),
    more: optional(bool, false),
  },
  synced: { keep: optional(list(id), []) },
  dispatch: {
    lease,
    ns: required(str()),
    job,
    attempt: required(positive),
    digest: required(str()),
    program: required(name),
    revision: required(name),
    timeout_ms: required(count),
    profile: optional(name),
    lane: optional(name, DEFAULT_LANE),
    want,
    window: optional(positive),
    isolate: optional(bool, false),
    defined: optional(bool, false),
    trace: optional(mapOf(str())),
  },
  released: {
    lease,
    started: required(bool),
    cause: required(oneOf("drain", "crash", "stall", "capacity")),
    blame: optional(oneOf("self", "shared", "none"), "none"),
    details,
  },
  drain: { grace_ms: required(count) },
};
