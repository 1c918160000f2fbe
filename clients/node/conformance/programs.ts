/** The programs that a worker under test offers (protocol/vectors/README.md). */
import { setTimeout as sleep } from "node:timers/promises";
import { type Programs, ToolError } from "../src/index.js";

export const programs: Programs = {
  echo: {
    description: "Gives back its text.",
    inputs: { text: "string" },
    outputs: { text: "string" },
    run: ({ text }: { text: string }) => ({ text }),
  },
  nap: {
    description: "Waits, and can be stopped.",
    inputs: { ms: "integer" },
    outputs: { ms: "integer" },
    run: async ({ ms }: { ms: number }, { signal }) => {
      await sleep(ms, undefined, { signal });
      return { ms };
    },
  },
  large: {
    description: "Makes so many characters.",
    inputs: { size: "integer" },
    outputs: { text: "string" },
    run: ({ size }: { size: number }) => ({ text: "x".repeat(size) }),
  },
  fail: {
    description: "Fails.",
    inputs: { text: "string" },
    outputs: {},
    run: ({ text }: { text: string }) => {
      throw new Error(text);
    },
  },
  die: {
    description: "Ends its process, after a while.",
    inputs: { ms: "integer" },
    outputs: {},
    run: async ({ ms }: { ms: number }) => {
      await sleep(ms);
      process.exit(7);
    },
  },
  consult: {
    description: "Calls a tool of the client so many times, one after the other.",
    inputs: { tool: "string", args: "object", times: "integer" },
    outputs: { values: "array" },
    run: async (
      { tool, args, times }: { tool: string; args: Record<string, unknown>; times: number },
      { callTool },
    ) => {
      const values: unknown[] = [];
      for (let n = 0; n < times; n += 1) {
        try {
          values.push(await callTool(tool, args));
        } catch (error) {
          if (!(error instanceof ToolError)) throw error;
          values.push("failed");
        }
      }
      return { values };
    },
  },
  steps: {
    description: "Tells how far it is.",
    inputs: { to: "integer" },
    outputs: { to: "integer" },
    run: async ({ to }: { to: number }, { progress, signal }) => {
      for (let done = 1; done <= to; done += 1) {
        progress({ done, total: to });
        await sleep(20, undefined, { signal });
      }
      return { to };
    },
  },
  story: {
    description: "Says the text in pieces.",
    inputs: { text: "string" },
    outputs: { answer: "string" },
    run: async ({ text }: { text: string }, { write, signal }) => {
      const size = Math.max(1, Math.ceil(text.length / 12));
      for (let at = 0; at < text.length; at += size) {
        write("answer", text.slice(at, at + size));
        await sleep(30, undefined, { signal });
      }
      return { answer: text };
    },
  },
};
