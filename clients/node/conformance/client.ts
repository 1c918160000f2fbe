/** The client's driver for `dspymq conformance client`: it is told what to do over stdin, and tells over stdout. */
import { createInterface } from "node:readline";
import { callOnce, Client, DspymqError, type Job, type SubmitOptions, type Tool } from "../src/index.js";

interface Step {
  tell: string;
  call: string;
  program: string;
  inputs: Record<string, unknown>;
  timeout_ms?: number;
  stream?: boolean;
  window?: number;
  tools?: string[];
  options?: Record<string, any>;
  one_shot?: boolean;
  job: string;
  method: string;
  params?: Record<string, unknown>;
}

function say(line: Record<string, unknown>): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

let counted = 0;

const TOOLS: Record<string, Tool> = {
  add: {
    name: "add",
    description: "The sum of two integers.",
    parameters: {
      type: "object",
      properties: { a: { type: "integer" }, b: { type: "integer" } },
      required: ["a", "b"],
    },
    run: ({ a, b }: { a: number; b: number }) => {
      if (!Number.isInteger(a) || !Number.isInteger(b)) throw new TypeError("a and b are integers");
      return a + b;
    },
  },
  count: { name: "count", run: () => (counted += 1) },
  broken: {
    name: "broken",
    run: () => {
      throw new Error("broken");
    },
  },
};

const client = new Client({ addresses: process.env["DSPYMQ_BROKERS"], name: "under-test" });
const jobs = new Map<string, Job>();

async function follow(call: string, ended: Promise<Record<string, unknown>>): Promise<void> {
  try {
    say({ outcome: { call, code: "OK", ...(await ended) } });
  } catch (error) {
    if (!(error instanceof DspymqError)) throw error;
    const { code, reason, message } = error;
    say({ outcome: { call, code, reason: reason || undefined, message } });
  }
}

async function resultOf(job: Job): Promise<Record<string, unknown>> {
  const { outputs, attempt } = await job.result();
  return { outputs, attempt };
}

async function readAll(job: Job): Promise<void> {
  try {
    while ((await job.nextChunk()) !== undefined);
  } catch (error) {
    // How the job ended is told by its outcome.
    if (!(error instanceof DspymqError)) throw error;
  }
}

function submit(step: Step): void {
  const { call, stream = false, window, options: fields = {} } = step;
  const options: SubmitOptions = {
    timeoutMs: step.timeout_ms,
    stream,
    window: window ?? null,
    tools: step.tools?.map((name) => TOOLS[name] as Tool),
    onText: (text) => say({ text: { call, fields: text } }),
    revision: fields["revision"],
    profile: fields["profile"],
    lane: fields["lane"],
    priority: fields["priority"],
    onDisconnect: fields["on_disconnect"],
    failFast: fields["fail_fast"],
    redeliver: fields["redeliver"],
    affinity: fields["affinity"],
    trace: fields["trace"],
  };
  const job = client.submit(step.program, step.inputs, options);
  jobs.set(call, job);
  void follow(call, resultOf(job));
  if (stream && window === undefined) void readAll(job);
}

async function once({ program, inputs, timeout_ms: timeoutMs }: Step): Promise<Record<string, unknown>> {
  const { outputs, attempt } = await callOnce(program, inputs, { address: client.addresses[0], timeoutMs });
  return { outputs, attempt };
}

function take(step: Step): void {
  switch (step.tell) {
    case "submit":
      if (step.one_shot) void follow(step.call, once(step));
      else submit(step);
      break;
    case "attach": {
      const job = client.attach(step.job);
      jobs.set(step.call, job);
      void follow(step.call, resultOf(job));
      break;
    }
    case "cancel":
      jobs.get(step.call)?.cancel();
      break;
    case "read":
      void jobs
        .get(step.call)
        ?.nextChunks()
        .catch(() => undefined);
      break;
    case "ask":
      void follow(
        step.call,
        client.request(step.method, step.params).then((result: unknown) => ({ result })),
      );
      break;
    case "close":
      void client.close();
      break;
    default:
      say({ problem: `this driver cannot be told to ${step.tell}` });
  }
}

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const step = JSON.parse(line) as Step;
  try {
    take(step);
  } catch (error) {
    if (!(error instanceof DspymqError)) throw error;
    const { code, reason, message } = error;
    say({ outcome: { call: step.call, code, reason, message } });
  }
});
lines.on("close", () => void client.close().then(() => process.exit(0)));

say({
  ready: true,
  supports: [
    "call",
    "options",
    "stream",
    "read",
    "attach",
    "cancel",
    "tools",
    "ask",
    "failover",
    "resume",
    "close",
    "one-shot",
  ],
});
