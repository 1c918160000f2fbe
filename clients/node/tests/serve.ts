/** A worker for tests: its options come as JSON, in the first argument. Ends with 0 if all was settled. */
import { Worker, type WorkerOptions } from "../src/index.js";
import { programs } from "./programs.js";

const options = JSON.parse(process.argv[2] ?? "{}") as Omit<WorkerOptions, "programs">;
const worker = new Worker({
  ...options,
  programs: options.processes ? new URL("./programs.js", import.meta.url) : programs,
  onLog: (level, text) => process.stderr.write(`${level} ${text}\n`),
});
process.exitCode = (await worker.run()) ? 0 : 1;
