/** The way from a program to the tools of its client (SPEC.md section 9.6). */
import { decodeBody, encodeBody, isMap, type PlainMap } from "../protocol/body.js";
import type { WorkerToolResult } from "../protocol/messages.js";
import { JobError, ToolError } from "./job-error.js";
import { checkParameters, closed, misfits, SchemaProblem } from "./schema.js";

/** A tool that the client offers. */
export interface ToolOffer {
  readonly name: string;
  readonly description: string;
  /** The JSON Schema of its arguments. */
  readonly parameters: PlainMap;
  readonly timeoutMs: number | undefined;
}

const MAX_TOOLS = 64;
const NAME = /^[A-Za-z0-9_-]{1,64}$/;
const KEYS = new Set(["name", "description", "parameters", "timeout_ms"]);
const LONGEST_MS = 2 ** 31 - 1;

/** The `tools` of a body. Throws JobError `invalid_tools`. */
export function parseTools(tools: unknown): Map<string, ToolOffer> {
  const found = new Map<string, ToolOffer>();
  if (tools === undefined || tools === null || (isMap(tools) && Object.keys(tools).length === 0)) return found;
  if (!Array.isArray(tools)) throw refusal("`tools` must be an array of maps {name, description?, parameters}");
  if (tools.length > MAX_TOOLS) throw refusal(`\`tools\` has ${tools.length} entries, the limit is ${MAX_TOOLS}`);
  tools.forEach((entry: unknown, position) => {
    const tool = parseTool(entry, position);
    if (found.has(tool.name)) throw refusal("there is another tool of this name", tool.name);
    found.set(tool.name, tool);
  });
  return found;
}

function parseTool(entry: unknown, position: number): ToolOffer {
  if (!isMap(entry)) throw refusal("must be a map {name, description?, parameters}", position);
  const { name, description = "", parameters, timeout_ms: timeoutMs } = entry;
  if (typeof name !== "string" || !NAME.test(name)) {
    throw refusal("`name` must be 1 to 64 ASCII letters, digits, `_` or `-`", position);
  }
  if (name === "finish") throw refusal("this name is taken; use another one", name);
  const unknown = Object.keys(entry).find((key) => !KEYS.has(key));
  if (unknown !== undefined) throw refusal(`there is no key ${JSON.stringify(unknown.slice(0, 64))}`, name);
  if (typeof description !== "string" || [...description].length > 4_096) {
    throw refusal("`description` is a text of at most 4096 characters", name);
  }
  if (timeoutMs !== undefined && timeoutMs !== null && !(typeof timeoutMs === "number" && timeoutMs >= 1)) {
    throw refusal("`timeout_ms` is a whole number of milliseconds, at least 1", name);
  }
  if (parameters === undefined) throw refusal("`parameters` is missing; {type: object} says that there are none", name);
  try {
    const schema = checkParameters(Array.isArray(parameters) && parameters.length === 0 ? {} : parameters);
    const bound = typeof timeoutMs === "number" ? Math.floor(timeoutMs) : undefined;
    return { name, description, parameters: schema, timeoutMs: bound };
  } catch (error) {
    if (error instanceof SchemaProblem) throw refusal(error.message, name);
    throw error;
  }
}

function refusal(problem: string, tool?: string | number): JobError {
  const message = tool === undefined ? problem : `tools[${JSON.stringify(tool)}]: ${problem}`;
  const options = { code: "INVALID_ARGUMENT", reason: "invalid_tools" };
  return new JobError(message.slice(0, 1_000), tool === undefined ? options : { ...options, details: { tool } });
}

export interface ToolRequest {
  call: number;
  name: string;
  timeoutMs: number;
  body: Uint8Array;
}

interface Call extends ToolRequest {
  settle(error: ToolError | undefined, value?: unknown): void;
  readonly deadlineMs: number;
}

/** The calls of one attempt. */
export class ToolChannel {
  private nextCall = 0;
  private readonly open = new Map<number, Call>();

  /** `send` asks the client; `leftMs` is what is left of the job's time. */
  constructor(
    readonly tools: ReadonlyMap<string, ToolOffer>,
    private readonly send: (request: ToolRequest) => void,
    private readonly leftMs: () => number,
    private readonly signal: AbortSignal,
  ) {}

  /** Call a tool of the client. Rejects with ToolError; with the reason of the job's signal when the job stops. */
  async call(name: string, args: PlainMap): Promise<unknown> {
    this.signal.throwIfAborted();
    const tool = this.tools.get(name);
    if (tool === undefined) {
      throw new ToolError(
        "NOT_FOUND",
        `the client offers no tool "${name}"; there are ${[...this.tools.keys()].join(", ") || "none"}`,
      );
    }
    const wrong = misfits(args, closed(tool.parameters), tool.parameters).slice(0, 3);
    if (wrong.length > 0) {
      const list = wrong.map(({ path, message }) => `${path} ${message}`.trim()).join("; ");
      throw new ToolError("INVALID_ARGUMENT", `the arguments do not fit ${name}: ${list}`);
    }
    const timeoutMs = Math.max(0, Math.floor(Math.min(tool.timeoutMs ?? Infinity, this.leftMs())));
    const body = encodeBody({ args });
    return new Promise((resolve, reject) => {
      const call = this.nextCall;
      this.nextCall += 1;
      const stop = (): void => {
        done();
        reject(this.signal.reason);
      };
      const timer = setTimeout(
        () => settle(new ToolError("DEADLINE_EXCEEDED", `${name} did not answer within ${timeoutMs} ms`)),
        Math.min(timeoutMs, LONGEST_MS),
      );
      const done = (): void => {
        clearTimeout(timer);
        this.signal.removeEventListener("abort", stop);
        this.open.delete(call);
      };
      const settle = (error: ToolError | undefined, value?: unknown): void => {
        done();
        if (error === undefined) resolve(value);
        else reject(error);
      };
      this.signal.addEventListener("abort", stop, { once: true });
      const opened = { call, name, timeoutMs, body, settle, deadlineMs: performance.now() + timeoutMs };
      this.open.set(call, opened);
      this.send(opened);
    });
  }

  /** The client has answered; what is not open is ignored. */
  answered(message: WorkerToolResult, body: Uint8Array): void {
    const call = this.open.get(message.call);
    if (call === undefined) return;
    if (message.code !== "OK") {
      call.settle(new ToolError(message.code, message.message ?? `${call.name} gave no value`));
      return;
    }
    try {
      call.settle(undefined, decodeBody(body)["value"] ?? null);
    } catch (error) {
      call.settle(new ToolError("INTERNAL", (error as Error).message));
    }
  }

  /** A client attached: ask again for what is open. */
  attach(): void {
    for (const call of this.open.values()) {
      this.send({ ...call, timeoutMs: Math.max(0, Math.floor(call.deadlineMs - performance.now())) });
    }
  }
}
