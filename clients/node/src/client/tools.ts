/** Tools: functions of the caller that a program on a worker may call while its job runs (SPEC.md section 9.6). */
import { InvalidArgument } from "../errors.js";
import { bodyPart, encodeBody } from "../protocol/body.js";
import { NO_BODY } from "../protocol/codec.js";
import { Problem } from "../protocol/problem.js";
import type { ToolCalled } from "./driver.js";
import type { Answer } from "./events.js";

/** A JSON Schema. */
export type JsonSchema = Record<string, unknown>;

/** What a tool is told beside its arguments. */
export interface ToolContext {
  /** Aborted when nobody waits for the answer any more: the job has ended, is run anew, or the time is over. */
  readonly signal: AbortSignal;
  /** The job's id. */
  readonly job: string;
}

/** A function that programs may call. It runs here, in the caller's process. */
export interface Tool {
  /** 1 to 64 ASCII letters, digits, `_` or `-`; `finish` is taken. */
  readonly name: string;
  /** What the model is told. */
  readonly description?: string;
  /** The JSON Schema of an object: the arguments. Left out: there are none. */
  readonly parameters?: JsonSchema;
  /** How long the program waits for an answer; left out: as long as the job has. */
  readonly timeoutMs?: number;
  /**
   * Gives the value, or a promise of it. What it throws is told to the program, and so to its model, by name and
   * message, without a stack trace.
   */
  run(args: any, context: ToolContext): unknown;
}

const NAME = /^[A-Za-z0-9_-]{1,64}$/;
const MAX_TOOLS = 64;
const MAX_MESSAGE = 1_000;

/** The `tools` of a body. Throws InvalidArgument `invalid_tools`. */
export function describeTools(tools: readonly Tool[]): Record<string, unknown>[] {
  if (tools.length > MAX_TOOLS) throw wrong(`${tools.length} tools; the limit is ${MAX_TOOLS}`);
  const names = new Set<string>();
  return tools.map((tool) => {
    const { name, description = "", parameters = { type: "object", properties: {} }, timeoutMs } = tool;
    if (typeof name !== "string" || !NAME.test(name)) {
      throw wrong(`tool ${JSON.stringify(name)}: its name must be 1 to 64 ASCII letters, digits, "_" or "-"`);
    }
    if (name === "finish") throw wrong('tool "finish": this name is taken; use another one');
    if (names.has(name)) throw wrong(`tool "${name}": there is another tool of this name`);
    if (typeof tool.run !== "function") throw wrong(`tool "${name}": \`run\` must be a function`);
    if (description.length > 4_096) throw wrong(`tool "${name}": its description is longer than 4096 characters`);
    if (timeoutMs !== undefined && !(timeoutMs > 0 && timeoutMs <= Number.MAX_SAFE_INTEGER)) {
      throw wrong(`tool "${name}": \`timeoutMs\` must be milliseconds above 0, not ${timeoutMs}`);
    }
    names.add(name);
    return { name, description, parameters, timeout_ms: timeoutMs === undefined ? undefined : Math.ceil(timeoutMs) };
  });
}

/** Runs the tools of one job. */
export class ToolRunner {
  private readonly tools: ReadonlyMap<string, Tool>;
  private running = new AbortController();

  constructor(
    tools: readonly Tool[],
    private readonly job: string,
    private readonly answer: (run: number, answer: Answer) => void,
  ) {
    this.tools = new Map(tools.map((tool) => [tool.name, tool]));
  }

  /** Run a call, and answer it whatever happens. */
  call(called: ToolCalled): void {
    const ended = this.running.signal;
    void this.outcome(called, ended).then((answer) => {
      if (!ended.aborted) this.answer(called.run, answer);
    });
  }

  /** Nobody waits for what is running. */
  stop(): void {
    this.running.abort();
    this.running = new AbortController();
  }

  private async outcome(called: ToolCalled, ended: AbortSignal): Promise<Answer> {
    const tool = this.tools.get(called.name);
    if (tool === undefined) {
      return refusal("NOT_FOUND", `there is no tool "${called.name}"; there are ${[...this.tools.keys()].join(", ")}`);
    }
    const overdue = AbortSignal.timeout(Math.min(called.timeoutMs, 2 ** 31 - 1));
    const signal = AbortSignal.any([ended, overdue]);
    let stop: (() => void) | undefined;
    try {
      const args = bodyPart(called.body, "args");
      const late = new Promise<never>((_, reject) => {
        stop = () => reject(signal.reason);
        signal.addEventListener("abort", stop, { once: true });
      });
      // In a promise of its own: what is thrown before the first await must be caught as well.
      const value = await Promise.race([Promise.resolve().then(() => tool.run(args, { signal, job: this.job })), late]);
      return { code: "OK", body: encodeBody({ value: value ?? null }) };
    } catch (error) {
      if (overdue.aborted) return refusal("DEADLINE_EXCEEDED", `no answer within ${called.timeoutMs} ms`);
      if (error instanceof Problem) return refusal("INTERNAL", `what passes by ${tool.name}: ${error.message}`);
      return refusal("UNKNOWN", error instanceof Error ? `${error.name}: ${error.message}` : String(error));
    } finally {
      if (stop !== undefined) signal.removeEventListener("abort", stop);
    }
  }
}

function refusal(code: string, message: string): Answer {
  return { code, message: message.toWellFormed().slice(0, MAX_MESSAGE).toWellFormed(), body: NO_BODY };
}

function wrong(message: string): InvalidArgument {
  return new InvalidArgument(message, { reason: "invalid_tools" });
}
