/** What the tests' workers offer: the programs of the conformance kit, and some that behave badly. */
import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { programs as plain } from "../conformance/programs.js";
import type { Programs } from "../src/index.js";

export const programs: Programs = {
  ...plain,
  node_echo: {
    inputs: { value: {} },
    outputs: { value: {}, pid: "integer" },
    run: ({ value }: { value: unknown }) => ({ value, pid: process.pid }),
  },
  mark: {
    description: "Leaves a line in a file each time that it is started, then waits.",
    inputs: { path: "string", ms: "integer" },
    outputs: { pid: "integer" },
    run: async ({ path, ms }: { path: string; ms: number }, { job, attempt, signal }) => {
      appendFileSync(path, `${job} ${attempt}\n`);
      await sleep(ms, undefined, { signal });
      return { pid: process.pid };
    },
  },
  stubborn: {
    description: "Ignores that it is to stop.",
    inputs: { ms: "integer" },
    outputs: { ms: "integer" },
    run: async ({ ms }: { ms: number }) => {
      await sleep(ms);
      return { ms };
    },
  },
  spin: {
    description: "Holds its process.",
    inputs: { ms: "integer" },
    outputs: { ms: "integer" },
    run: ({ ms }: { ms: number }) => {
      const end = performance.now() + ms;
      while (performance.now() < end);
      return { ms };
    },
  },
  used: {
    description: "Fails after it has used a model.",
    run: async (_: unknown, { addUsage }) => {
      addUsage("small", { input_tokens: 7, output_tokens: 2, cost: 0.5 });
      addUsage("small", { input_tokens: 1, output_tokens: 1 });
      throw new RangeError("no more");
    },
  },
};
