/** The worker's driver for `dspymq conformance worker`. */
import { Worker } from "../src/index.js";

const worker = new Worker({
  addresses: process.env["DSPYMQ_BROKERS"],
  name: "under-test",
  programs: new URL("./programs.js", import.meta.url),
  processes: 1,
  slots: { default: 2 },
  graceMs: 500,
  cancelGraceMs: 500,
  onLog: (level, text) => process.stderr.write(`${level} ${text}\n`),
});

process.stdin.resume();
process.stdin.on("end", () => worker.stopNow());

const supports = ["chunks", "tools", "progress", "die", "isolate", "resume", "stop"];
process.stdout.write(`${JSON.stringify({ ready: true, pid: process.pid, supports })}\n`);
await worker.run();
process.exit(0);
